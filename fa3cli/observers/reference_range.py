"""Observes the reference's range of a linear's input (act_method 1): the mean of the samples' minima and maxima."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["ReferenceRange"]


@dataclass(frozen=True)
class ReferenceRange:
    """Minima and maxima of the samples so far, in the model's dtype; the bits of the mean depend on the samples' order."""

    tokens: int = 0
    lows: Tensor | None = None
    highs: Tensor | None = None

    def updated(self, values: Tensor) -> ReferenceRange:
        """Return the observer after another sample, `[..., in]`."""
        low, high = (bound.view(1) for bound in values.aminmax())
        if self.tokens:
            low, high = low.to(self.lows.device), high.to(self.highs.device)
        return replace(
            self,
            tokens=self.tokens + values.numel() // values.shape[-1],
            lows=low if self.lows is None else torch.cat([self.lows, low]),
            highs=high if self.highs is None else torch.cat([self.highs, high]),
        )

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the mean minimum and the mean maximum, `[1]` each, in the model's dtype."""
        return self.lows.mean(0, keepdim=True), self.highs.mean(0, keepdim=True)
