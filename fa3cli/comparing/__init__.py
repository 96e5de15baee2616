"""Compares an export with its float model or pipeline."""
