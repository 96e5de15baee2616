"""Reads folders that nobody has checked: copies without code, limits of time and memory, and code only if it is known."""
