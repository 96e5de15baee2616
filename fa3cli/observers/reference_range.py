"""Observes the reference's range of a linear's input (act_method 1): the mean of the samples' minima and maxima."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fa3cli.observers import NOTHING, InOrder

__all__ = ["ReferenceRange"]


@dataclass(frozen=True)
class ReferenceRange(InOrder):
    """Minima and maxima of the samples so far, in the model's dtype; the bits of the mean depend on the samples' order."""

    tokens: int = 0
    lows: Tensor = NOTHING
    highs: Tensor = NOTHING

    def updated(self, values: Tensor) -> ReferenceRange:
        """Return the observer after another sample, `[..., in]`."""
        low, high = (bound.view(1) for bound in values.aminmax())
        if self.tokens:
            low = torch.cat([self.lows, low.to(self.lows.device)])
            high = torch.cat([self.highs, high.to(self.highs.device)])
        tokens = self.tokens + values.numel() // values.shape[-1]
        return replace(self, tokens=tokens, lows=low, highs=high)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the mean minimum and the mean maximum, `[1]` each, in the model's dtype."""
        return self.lows.mean(0, keepdim=True), self.highs.mean(0, keepdim=True)
