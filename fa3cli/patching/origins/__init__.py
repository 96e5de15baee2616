"""Finds the modeling file to patch, and checks what it needs."""
