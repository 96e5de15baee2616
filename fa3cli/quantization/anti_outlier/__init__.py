"""Implements AntiOutlier: rules that move outlier channels of activations into weights, for the methods m1 to m6."""
