"""The reference's range of a linear's input (act_method 1): the mean of each sample's minimum and maximum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["ReferenceRange"]


@dataclass(frozen=True)
class ReferenceRange:
    """Minima and maxima of the samples so far, in the model's dtype and in their order, on which the bits depend."""

    tokens: int = 0
    lows: Tensor | None = None
    highs: Tensor | None = None

    def updated(self, values: Tensor) -> ReferenceRange:
        """Return what is known after another sample, `[..., in]`."""
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
