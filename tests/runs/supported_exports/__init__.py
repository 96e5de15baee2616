"""Runs the whole job for every model type, and judges the exports without fa3's own code."""
