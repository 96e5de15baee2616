"""Was the class of a model made from the file in its folder?"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import nn

from fa3cli.errors import ConflictError

__all__ = ["check_loaded_code"]


def check_loaded_code(model: nn.Module, module: Path) -> None:
    """Raise ConflictError where transformers made a model of other code than `module`, its folder's file.

    transformers 4.x copies the code of a folder to a place that only the folder's name tells apart; another process
    that loads a folder of the same name can replace it in between.
    """
    loaded = Path(sys.modules[type(model).__module__].__file__)
    if loaded.read_bytes() != module.read_bytes():
        raise ConflictError(
            f"transformers loaded {loaded}, which is not {module}",
            hint="another process uses a folder of the same name: run again, or set HF_MODULES_CACHE to a folder "
            "for each of them",
        )
