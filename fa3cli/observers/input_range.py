"""The range of a linear's input (act_method 1): the mean over samples of each sample's minimum and maximum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["InputRange"]


class InputRange:
    """Minimum and maximum of each sample, reduced exactly, so that the order of the samples does not matter."""

    def __init__(self) -> None:
        self.tokens = 0
        self._bounds: list[Tensor] = []

    def update(self, bounds: Tensor, tokens: int) -> None:
        """Add one sample: its minimum and maximum, float32 `[2]`, and its number of tokens."""
        self.tokens += tokens
        self._bounds.append(bounds)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the mean minimum and the mean maximum, float32 `[1]` each; NaN if one is not finite."""
        bounds = torch.stack(self._bounds).double()
        if not bounds.isfinite().all():
            return torch.full((1,), math.nan), torch.full((1,), math.nan)
        lows, highs = bounds.T.tolist()
        low, high = (
            torch.tensor([math.fsum(ends) / len(ends)], dtype=torch.float32) for ends in (lows, highs)
        )
        return low, high
