"""The evidence that patches are right: every causal LM of every transformers version, tiny, native and patched.

`python -m tests.patching.matrix` (make supported-models) runs it and writes docs/supported-models.md.
"""
