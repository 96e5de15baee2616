"""Compares tiny native and patched models of every causal LM type under every transformers version.

`python -m tests.patching.matrix` (make supported-models) runs it and writes docs/supported-models.md.
"""
