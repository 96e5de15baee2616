"""Reads documents and writes small files; all other packages access them through this package."""
