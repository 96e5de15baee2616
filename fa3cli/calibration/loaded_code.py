"""Was the class of a model made from the file in its folder?"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

from fa3cli.calibration.module_file import code_of
from fa3cli.errors import ConflictError

__all__ = ["check_loaded_code"]


def check_loaded_code(model: nn.Module, module: Path, seen: bytes) -> None:
    """Raise ConflictError where transformers made a model of other code than was `seen` in `module`, its folder's file.

    transformers 4.x copies the code of a folder to a place that only the folder's name tells apart; another process
    that loads a folder of the same name can replace it in between.
    """
    loaded = Path(sys.modules[type(model).__module__].__file__)
    if code_of(module) != seen:
        raise ConflictError(
            f"{module}: changed while it was loaded", hint="run again when nothing writes there"
        )
    if code_of(loaded) != seen:
        raise ConflictError(
            f"transformers loaded {loaded}, which is not {module}",
            hint="another process uses a folder of the same name: run again, or set HF_MODULES_CACHE to a folder "
            "for each of them",
        )
