"""Observes the largest value of each channel of K or V, for engines whose KV cache has one scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fa3cli.observers import NOTHING

__all__ = ["ChannelPeak"]


@dataclass(frozen=True)
class ChannelPeak:
    """Largest |value| per channel over the samples: `peak [H, D]`, float32, on the CPU; empty without samples."""

    tokens: int = 0
    peak: Tensor = NOTHING

    def updated(self, states: Tensor) -> ChannelPeak:
        """Return the peaks after another sample's states, `[B, H, S, D]`."""
        # Not abs(), which would copy the states.
        peak = torch.maximum(states.amax((0, 2)), states.amin((0, 2)).neg())
        return self.merged(ChannelPeak(states.shape[0] * states.shape[2], peak.float().cpu()))

    def merged(self, *others: ChannelPeak) -> ChannelPeak:
        """Return the peaks over all sets of samples."""
        seen = [peaks for peaks in (self, *others) if peaks.tokens]
        if len(seen) < 2:
            return seen[0] if seen else self
        return ChannelPeak(sum(peaks.tokens for peaks in seen), torch.stack([peaks.peak for peaks in seen]).amax(0))
