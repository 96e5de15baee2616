"""Opens safetensors files and reads their headers: regular files only, of bounded size, in valid format."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa3cli.files.documents import parse_json
from fa3cli.files.reading import require_regular

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "FLOATS", "FP8", "Entry", "open_tensors", "read_header", "stored_dtype"]

# The name of a dtype in the header -> its name in torch. Names, since `fa3 verify` and `fa3 report` start without torch.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DTYPES = {**FLOATS, "I64": "int64", "I32": "int32", "I8": "int8", "BOOL": "bool"}
FP8 = "F8_E4M3"
"""The header's name of torch.float8_e4m3fn, which fa3 reads and never writes."""
_STORED = {name: stored for stored, name in DTYPES.items()}
_LARGEST_SIZE = 1 << 48
"""Limit for one dimension: the format can store sizes that torch cannot represent; real tensors are far below."""


@dataclass(frozen=True)
class Entry:
    """The header entry of a tensor; its bytes are at `begin` to `end` in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def stored_dtype(dtype: torch.dtype) -> str | None:
    """Return the name of a torch dtype in the header, None if fa3 does not write it."""
    return _STORED.get(str(dtype).removeprefix("torch."))


def open_tensors(path: Path) -> Any:
    """Map a safetensors file, as `safe_open` does; raises OSError if the file is not regular, or SafetensorError."""
    from safetensors import safe_open

    require_regular(path)  # opening a pipe would block
    try:
        return safe_open(path, "pt")
    except RuntimeError as error:  # torch maps the file a second time
        raise OSError(errno.EIO, "torch cannot map the file", str(path)) from error


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the tensors and the metadata of a complete safetensors file.

    Raises OSError as `open_tensors` does, ValueError for a file that is not complete or not in this format.
    """
    from safetensors import SafetensorError

    try:
        with open_tensors(path):  # checks the header, its length, and the length of the data
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    with path.open("rb") as stream:
        # The format: the header's length in 8 bytes, the header in json, the values.
        (length,) = struct.unpack("<Q", stream.read(8))
        header = parse_json(stream.read(length).decode("utf-8"), unique=True)
    metadata = header.pop("__metadata__", None) or {}
    begin = 8 + length
    entries = {
        name: Entry(found["dtype"], tuple(found["shape"]), *(begin + offset for offset in found["data_offsets"]))
        for name, found in header.items()
    }
    for name, entry in entries.items():
        if max(entry.shape, default=0) > _LARGEST_SIZE:
            raise ValueError(f"{name!a} has the shape {list(entry.shape)}, too large for a tensor")
    return entries, metadata
