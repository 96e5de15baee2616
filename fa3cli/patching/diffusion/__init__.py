"""Patches the transformers of diffusers pipelines, which model_index.json names."""
