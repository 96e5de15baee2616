"""Writes nested dicts, lists and tuples of tensors to a safetensors file, and reads them back."""

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
    """Write a tree of dicts with text keys, lists, tuples, tensors and plain values; the file appears when it is complete.

    A tensor's name contains its place in the tree. The tree repeats the tensor's dtype and shape, to detect a damaged
    header. Raises TypeError for a value of another kind, and names its place.
    """
    tensors: dict[str, Tensor] = {}
    described = _encode(tree, tensors)
    writer = SafetensorsWriter(file, list(tensors), metadata={_KEY: json.dumps(described)})
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()


def read_tree(file: Path) -> Any:
    """Return the tree of a file; its tensors share memory with the mapped file.

    Raises ConflictError for a broken or missing file.
    """
    try:
        with open_tensors(file) as opened:
            return _decode(parse_json(opened.metadata()[_KEY]), opened.get_tensor)
    except FileNotFoundError as error:
        raise ConflictError(f"{file}: missing", hint="--resume never starts over") from error
    # A damaged header may be valid json that describes another tree: any of these errors may follow.
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConflictError(
            f"{file}: not as fa3 wrote it ({error})", hint="the same command with --resume never starts over"
        ) from error


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree in a fixed order, including attributes of objects in it; modules are omitted."""
    # Objects may form reference cycles.
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


def _encode(value: Any, tensors: dict[str, Tensor], place: str = "") -> Any:
    """Return a value as json data, and add its tensors to `tensors`."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{place}"  # the number makes it unique, since keys may contain dots
        tensors[name] = value
        return {"tensor": [name, _signature(value)]}
    # Exact types: a value of a subclass would come back as one of its base.
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, tensors, f"{place}.{key}") for key, item in value.items()}}
    if type(value) in (list, tuple):
        items = [_encode(item, tensors, f"{place}.{index}") for index, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{place.lstrip('.')}: {type(value).__name__} cannot be written to a file")


def _signature(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _decode(described: Any, tensor: Callable[[str], Tensor]) -> Any:
    [(kind, value)] = described.items()
    if kind == "tensor":
        name, form = value
        found = tensor(name)
        if _signature(found) != form:
            raise ValueError(f"{name} is {_signature(found)}, written as {form}")
        return found
    if kind == "dict":
        return {key: _decode(item, tensor) for key, item in value.items()}
    if kind in ("list", "tuple"):
        values = [_decode(item, tensor) for item in value]
        return values if kind == "list" else tuple(values)
    return value
