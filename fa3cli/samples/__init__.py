"""Reads calibration and evaluation data: one sample is one forward."""
