"""Drives a run: data and weights in, one decoder layer at a time, every room above called in turn."""
