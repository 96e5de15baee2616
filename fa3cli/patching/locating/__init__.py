"""Finds the attention classes of a modeling file and the places where their q, k and v can be quantized."""
