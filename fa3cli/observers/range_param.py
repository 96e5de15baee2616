"""Observes range_param: the largest input of a linear in standard deviations, by which disable_level ranks linears."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fa3cli.observers import NOTHING

__all__ = ["RangeParam"]


@dataclass(frozen=True)
class RangeParam:
    """Largest magnitude and largest standard deviation over the samples of a linear's float inputs."""

    in_float32: bool = False
    """Whether values are converted to float32 first; the reference computes in the model's dtype."""
    tokens: int = 0
    largest: Tensor = NOTHING  # scalars; empty before the first sample
    deviation: Tensor = NOTHING

    def updated(self, values: Tensor) -> RangeParam:
        """Return the observer after another sample, `[..., in]`.

        The deviation is around the sum (not the mean) of each channel's minimum and maximum: the reference's formula.
        """
        rows = values.flatten(0, -2)
        rows = rows.float() if self.in_float32 else rows
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        largest = torch.maximum(high.max().abs(), low.min().abs())
        deviation = (rows - (high + low)).std()
        if self.tokens:
            largest = torch.maximum(self.largest, largest.to(self.largest.device))
            deviation = torch.maximum(self.deviation, deviation.to(self.deviation.device))
        return replace(self, tokens=self.tokens + len(rows), largest=largest, deviation=deviation)

    def merged(self, *others: RangeParam) -> RangeParam:
        """Return the observer of all sets of samples."""
        seen = [observer for observer in (self, *others) if observer.tokens]
        if len(seen) < 2:
            return seen[0] if seen else self
        return replace(
            self,
            tokens=sum(observer.tokens for observer in seen),
            largest=torch.stack([observer.largest for observer in seen]).amax(),
            deviation=torch.stack([observer.deviation for observer in seen]).amax(),
        )

    def value(self) -> float:
        """Return the largest magnitude in standard deviations; 0 if no sample reached the linear."""
        if self.tokens == 0:
            return 0.0
        return float(self.largest / self.deviation)
