"""Observes the range of q, k or v per attention head (FA3): the union of the samples' recall windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fa3cli.numerics.recall_window import recall_window
from fa3cli.observers import NOTHING

__all__ = ["HeadRange"]

# Share of the values inside a head's window; the guide's tool keeps all values of v.
_RECALL = {"q": 0.9999, "k": 0.9999, "v": 1.0}


@dataclass(frozen=True)
class HeadRange:
    """Union over the samples of the recall windows of one role's states: `low [H]`, `high [H]`, float32, on the CPU.

    Without samples both are empty.
    """

    tokens: int = 0
    low: Tensor = NOTHING
    high: Tensor = NOTHING

    def updated(self, states: Tensor, role: str) -> HeadRange:
        """Return the range after another sample's states, `[B, H, S, D]`, of role q, k or v."""
        low, high = recall_window(states, _RECALL[role])
        return self.merged(HeadRange(states.shape[0] * states.shape[2], low, high))

    def merged(self, *others: HeadRange) -> HeadRange:
        """Return the range over all sets of samples."""
        seen = [ranges for ranges in (self, *others) if ranges.tokens]
        if len(seen) < 2:
            return seen[0] if seen else self
        return HeadRange(
            sum(ranges.tokens for ranges in seen),
            torch.stack([ranges.low for ranges in seen]).amin(0),
            torch.stack([ranges.high for ranges in seen]).amax(0),
        )

    @property
    def peak(self) -> float:
        """The largest |bound| of all heads."""
        return max(self.low.abs().max().item(), self.high.abs().max().item())

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest bound of each head, `[H]` each, on the CPU."""
        return self.low, self.high
