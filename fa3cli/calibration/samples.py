"""What a run needs to know of a sample, text or record."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["AnySample"]


class AnySample(Protocol):
    """What one forward of a model is called with; `origin` says where it stands."""

    @property
    def origin(self) -> str: ...

    @property
    def tokens(self) -> int:
        """Number of tokens, padding included; 0 where that is not known."""
        ...

    @property
    def mask(self) -> Tensor | None:
        """The tokens that are no padding, bool `[B, S]`; None where all are."""
        ...

    @property
    def timestep(self) -> float | None:
        """The timestep of a diffusion transformer's call."""
        ...

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the forward's keyword arguments on `device`."""
        ...
