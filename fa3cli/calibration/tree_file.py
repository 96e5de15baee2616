"""Tensors within dicts, lists and tuples, kept in a safetensors file and read back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from fa3cli.errors import ConflictError
from fa3cli.exports.safetensors_writer import SafetensorsWriter
from fa3cli.files.documents import parse_json
from fa3cli.files.tensors import open_tensors

__all__ = ["read_tree", "tensors_of", "write_tree"]

_KEY = "tree"


def write_tree(file: Path, tree: Any) -> None:
    """Write a tree of dicts with text keys, lists, tuples, tensors and plain values; the file appears when it is whole.

    A tensor's name says where it is in the tree, and the tree says its dtype and shape once more: a damaged header is
    found. Raises TypeError for a value of another kind, and names its place.
    """
    tensors: dict[str, Tensor] = {}
    described = _described(tree, tensors)
    writer = SafetensorsWriter(file, list(tensors), metadata={_KEY: json.dumps(described)})
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()


def read_tree(file: Path) -> Any:
    """Return what was written; its tensors share memory with the mapped file.

    Raises ConflictError for a file that is broken or gone.
    """
    try:
        with open_tensors(file) as opened:
            return _rebuilt(parse_json(opened.metadata()[_KEY]), opened.get_tensor)
    except FileNotFoundError as error:
        raise ConflictError(f"{file}: gone", hint="--resume never starts over") from error
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConflictError(
            f"{file}: not as fa3 wrote it ({error})", hint="the same command with --resume never starts over"
        ) from error


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree, also those that objects in it hold (modules aside), always in the same order."""
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif not isinstance(value, nn.Module) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Mapping):
                value = list(value.values())
            waiting += value if isinstance(value, (list, tuple)) else getattr(value, "__dict__", {}).values()


def _described(value: Any, tensors: dict[str, Tensor], place: str = "") -> Any:
    """Return a value as json and put its tensors into `tensors`."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{place}"  # the number, since keys may have points in them
        tensors[name] = value
        return {"tensor": [name, _form(value)]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _described(each, tensors, f"{place}.{key}") for key, each in value.items()}}
    if type(value) in (list, tuple):
        items = [_described(each, tensors, f"{place}.{index}") for index, each in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{place.lstrip('.')}: {type(value).__name__} can't be kept in a file")


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _rebuilt(described: Any, tensor: Callable[[str], Tensor]) -> Any:
    [(kind, value)] = described.items()
    if kind == "tensor":
        name, form = value
        found = tensor(name)
        if _form(found) != form:
            raise ValueError(f"{name} is {_form(found)}, written as {form}")
        return found
    if kind == "dict":
        return {key: _rebuilt(each, tensor) for key, each in value.items()}
    if kind in ("list", "tuple"):
        values = [_rebuilt(each, tensor) for each in value]
        return values if kind == "list" else tuple(values)
    return value
