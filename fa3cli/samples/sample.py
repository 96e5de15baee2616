"""Defines the interface of a calibration sample: a text, or a recorded call of a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["AnySample"]


class AnySample(Protocol):
    """The arguments of one forward of a model; `origin` names its place in the data."""

    @property
    def origin(self) -> str: ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The forward's keyword arguments, on the CPU."""
        ...

    @property
    def tokens(self) -> int:
        """Number of tokens, padding included; 0 if it is not known."""
        ...

    @property
    def mask(self) -> Tensor | None:
        """True for real tokens, False for padding, bool `[B, S]`; None if there is no padding."""
        ...

    @property
    def timestep(self) -> float | None:
        """The timestep of a diffusion transformer's call; None for a text."""
        ...

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the forward's keyword arguments on `device`."""
        ...
