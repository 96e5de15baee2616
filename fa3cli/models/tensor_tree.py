"""Maps a function over the tensors of a nested value, or moves them to another device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["CPU", "map_tensors", "moved"]

CPU = torch.device("cpu")


def moved(value: Any, device: torch.device) -> Any:
    """Return a nested value with its tensors on a device."""
    return map_tensors(lambda tensor: tensor.to(device), value)


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a nested value with `change` applied to the tensors in its dicts, lists, tuples and dataclasses."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {key: map_tensors(change, item) for key, item in value.items()}
    # Exact types: a named tuple, for example, is not made from one iterator.
    if type(value) in (list, tuple):
        return type(value)(map_tensors(change, item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        # Other fields are computed by the dataclass itself.
        kept = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **map_tensors(change, kept))
    return value
