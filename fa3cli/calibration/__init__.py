"""Runs samples through one decoder layer after the other, observes the layers and smooths them."""
