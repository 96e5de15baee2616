"""Provides the guide's Python classes: a script for the guide's tool runs after a change of its import lines."""
