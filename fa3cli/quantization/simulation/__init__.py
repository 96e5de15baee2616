"""Simulates a quantized model in floats: computes linears and attention states as an engine does."""
