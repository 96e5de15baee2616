"""Predicts what a run needs: files, memory and time."""
