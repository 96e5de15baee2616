"""Pipelines of diffusers: opening one, its float sampling run, and the records of that."""
