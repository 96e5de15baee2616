"""The range of q, k or v per attention head (FA3): the union over samples of each sample's recall window."""

from __future__ import annotations

import torch
from torch import Tensor

from fa3cli.numerics.recall_window import recall_window

__all__ = ["RECALL", "HeadRange"]

# Share of the values a head's window holds: the guide's tool keeps all of v.
RECALL = {"q": 0.9999, "k": 0.9999, "v": 1.0}


class HeadRange:
    """Recall windows of one role's states, united over the samples."""

    def __init__(self, role: str) -> None:
        self.tokens = 0
        self._ratio = RECALL[role]
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def update(self, states: Tensor) -> None:
        """Add one sample's states, `[B, H, S, D]`."""
        low, high = recall_window(states, self._ratio)
        self.tokens += states.shape[0] * states.shape[2]
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest bound of each head, float32 `[H]` each, on the CPU."""
        return self._low.cpu(), self._high.cpu()
