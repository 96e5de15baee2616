"""Observes the range of a linear's input (act_method 1): the mean of the samples' minima and maxima."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["InputRange"]


@dataclass(frozen=True)
class InputRange:
    """Minimum and maximum of each sample, float32 `[2]`; the mean is exact, so the order of the samples does not matter."""

    tokens: int = 0
    samples: tuple[Tensor, ...] = ()

    def updated(self, values: Tensor) -> InputRange:
        """Return the observer after another sample, `[..., in]`."""
        ends = torch.stack(values.aminmax()).float()
        return InputRange(self.tokens + values.numel() // values.shape[-1], (*self.samples, ends))

    def merged(self, *others: InputRange) -> InputRange:
        """Return the observer of all sets of samples."""
        observers = (self, *others)
        samples = (sample for observer in observers for sample in observer.samples)
        return InputRange(sum(observer.tokens for observer in observers), tuple(samples))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the mean minimum and the mean maximum, float32 `[1]` each; NaN if one is not finite."""
        ends = torch.stack([ends.to(self.samples[0].device) for ends in self.samples]).cpu().double()
        if not ends.isfinite().all():
            return torch.full((1,), math.nan), torch.full((1,), math.nan)
        # fsum is exact: the order in which ranks and samples are added does not matter.
        low, high = (torch.tensor([math.fsum(values) / len(values)], dtype=torch.float32) for values in ends.T.tolist())
        return low, high
