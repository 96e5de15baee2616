"""Moves tensors between devices, wherever in a value they are."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["CPU", "moved"]

CPU = torch.device("cpu")


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with the tensors of its dicts, lists, tuples and dataclasses on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) is dict:
        return {key: moved(each, device) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(each, device) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {each.name: moved(getattr(value, each.name), device) for each in fields(value) if each.init}
        return replace(value, **kept)
    return value
