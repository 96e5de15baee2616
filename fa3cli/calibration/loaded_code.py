"""Checks that a model's class was loaded from its own folder."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

from fa3cli.calibration.module_file import code_of
from fa3cli.errors import ConflictError

__all__ = ["check_loaded_code"]


def check_loaded_code(model: nn.Module, module: Path, seen: bytes) -> None:
    """Raise ConflictError if a model's code differs from the bytes `seen` in `module`, the file in its folder.

    transformers 4.x copies a folder's code to a cache whose path contains only the folder's name; another process that
    loads a folder of the same name can replace the copy before it is imported.
    """
    loaded = Path(sys.modules[type(model).__module__].__file__)
    if code_of(module) != seen:
        raise ConflictError(
            f"{module}: changed while it was loaded", hint="run again when nothing writes there"
        )
    if code_of(loaded) != seen:
        raise ConflictError(
            f"transformers loaded {loaded}, which is not {module}",
            hint="another process uses a folder of the same name: run again, or set HF_MODULES_CACHE to a separate "
            "folder for each of them",
        )
