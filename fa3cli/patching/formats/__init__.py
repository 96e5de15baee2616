"""Recognises the kind of a folder: a language model's weights or a diffusers pipeline."""

from __future__ import annotations

import os
from pathlib import Path

from fa3cli.patching.folders.receipt import receipt_library
from fa3cli.patching.formats.pipeline import Pipeline
from fa3cli.patching.formats.weights import Weights

Format = Weights | Pipeline

__all__ = ["Format", "Pipeline", "Weights", "format_of", "is_pipeline"]


def format_of(folder: Path, modeling: str | Path | None = None) -> Format:
    """Return the kind of a folder."""
    return Pipeline() if is_pipeline(folder, modeling) else Weights()


def is_pipeline(folder: str | Path, modeling: str | Path | None = None) -> bool:
    """Tell whether a folder is a pipeline: it has model_index.json, or no config.json while `modeling` is given."""
    folder = Path(folder)
    if receipt_library(folder) == Pipeline.library or os.path.lexists(folder / Pipeline.index):
        return True
    return modeling is not None and folder.is_dir() and not os.path.lexists(folder / Weights.index)
