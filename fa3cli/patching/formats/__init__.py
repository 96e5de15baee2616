"""The kinds of folder that can be patched, and which of them a folder is."""

from __future__ import annotations

import os
from pathlib import Path

from fa3cli.patching.formats.pipeline import Pipeline
from fa3cli.patching.formats.weights import Weights
from fa3cli.patching.receipt import receipt_library

Format = Weights | Pipeline

__all__ = ["Format", "Pipeline", "Weights", "format_of", "is_pipeline"]


def format_of(folder: Path, modeling: str | Path | None = None) -> Format:
    """The kind of a folder."""
    return Pipeline() if is_pipeline(folder, modeling) else Weights()


def is_pipeline(folder: str | Path, modeling: str | Path | None = None) -> bool:
    """Whether a folder is one of diffusers: it has a model_index.json, or no config.json but a file to start from."""
    folder = Path(folder)
    if receipt_library(folder) == Pipeline.library or os.path.lexists(folder / Pipeline.index):
        return True
    return modeling is not None and folder.is_dir() and not os.path.lexists(folder / Weights.index)
