"""Tensors within values: changed or moved to another device, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["CPU", "each_tensor", "moved"]

CPU = torch.device("cpu")


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on a device."""
    return each_tensor(lambda tensor: tensor.to(device), value)


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with the tensors of its dicts, lists, tuples and dataclasses changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {key: each_tensor(change, each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(each_tensor(change, each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        return replace(value, **each_tensor(change, kept))
    return value
