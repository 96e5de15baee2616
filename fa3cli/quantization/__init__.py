"""Defines what is quantized and how: settings, recipes, linears, attention states, fallback to float."""
