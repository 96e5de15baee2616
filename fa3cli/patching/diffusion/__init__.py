"""Pipelines of diffusers: the transformers a model_index.json names, patched like the language models' files."""
