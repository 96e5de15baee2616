"""Knows the names under which checkpoints publish the tensors of a model."""
