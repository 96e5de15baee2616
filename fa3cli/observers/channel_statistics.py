"""Collects AntiOutlier's statistics: each channel's extremes over the samples, and the samples that a rule needs whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from fa3cli.observers import NOTHING

__all__ = ["ChannelStatistics"]


@dataclass(frozen=True)
class ChannelStatistics:
    """Minimum and maximum of each channel, `[in]` (empty before the first sample), and the first `keep` samples, `[tokens, in]` each."""

    keep: int
    tokens: int = 0
    low: Tensor = NOTHING
    high: Tensor = NOTHING
    samples: tuple[Tensor, ...] = ()

    def updated(self, values: Tensor) -> ChannelStatistics:
        """Return the statistics after another sample, `[..., in]`."""
        rows = values.flatten(0, -2)
        rows = rows.to(self.low.device) if self.tokens else rows
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        if self.tokens:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        samples = (*self.samples, rows) if len(self.samples) < self.keep else self.samples
        return replace(self, tokens=self.tokens + len(rows), low=low, high=high, samples=samples)

    def merged(self, *others: ChannelStatistics) -> ChannelStatistics:
        """Return the statistics of all ranks' samples, in their original order: the ranks took the samples in turn."""
        seen = [statistics for statistics in (self, *others) if statistics.tokens]
        if len(seen) < 2:
            return seen[0] if seen else self
        turns = zip_longest(*(statistics.samples for statistics in seen))
        samples = [sample for turn in turns for sample in turn if sample is not None]
        return ChannelStatistics(
            self.keep,
            sum(statistics.tokens for statistics in seen),
            torch.stack([statistics.low for statistics in seen]).amin(0),
            torch.stack([statistics.high for statistics in seen]).amax(0),
            tuple(samples[: self.keep]),
        )

    def to(self, dtype: torch.dtype) -> ChannelStatistics:
        """Return the statistics in another dtype."""
        samples = tuple(sample.to(dtype) for sample in self.samples)
        return replace(self, low=self.low.to(dtype), high=self.high.to(dtype), samples=samples)
