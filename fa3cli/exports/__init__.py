"""Writes exports (tensors, description, companion files) and verifies that engines can load them."""
