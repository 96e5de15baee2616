"""Opens pipelines of diffusers, runs their float sampling, and records the transformers' calls."""
