"""Locating: which classes are attention, and where their q, k and v can be taken. Syntax trees in, places out."""
