"""Reads published checkpoints: tensor names, fused experts, FP8."""
