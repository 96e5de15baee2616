"""Runs samples through the layers for one purpose each: AntiOutlier, range_param, calibration."""
