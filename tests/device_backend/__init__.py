"""Provides a test device that finds code which assumes the CPU; its memory is host memory, counted and limited."""
