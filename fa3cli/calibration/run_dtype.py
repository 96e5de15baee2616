"""Chooses the dtype in which a run computes and exports."""

from __future__ import annotations

from pathlib import Path

import torch

from fa3cli.calibration.devices import computes_bfloat16
from fa3cli.errors import InvalidInputError, UnsupportedError

__all__ = ["run_dtype"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def run_dtype(dtype: str, found: str, device: torch.device, source: Path) -> torch.dtype:
    """Return the dtype of that name; for `auto` the one `found` in `source`, or float16 if the device lacks bfloat16.

    Raises UnsupportedError for an unknown name, InvalidInputError if the name `found` is unknown.
    """
    if dtype not in ("auto", *_DTYPES):
        raise UnsupportedError(f"--dtype {dtype}: expected auto, {', '.join(_DTYPES)}")
    if dtype != "auto":
        return _DTYPES[dtype]
    if found == "bfloat16" and not computes_bfloat16(device):
        found = "float16"
    if found not in _DTYPES:
        raise InvalidInputError(f"{source}: dtype {found}; expected one of {', '.join(_DTYPES)}")
    return _DTYPES[found]
