"""How well a tensor's values fill its range: the score by which fa_amp chooses layers to leave in float."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["fallback_score"]

_BINS = 100
_DENSE = 0.002  # two neighbouring bins with more than this share of the values end the search


def fallback_score(states: Tensor) -> float:
    """Return the share of the range of |states| below which values are dense, in (0, 1].

    A low score means that a few outliers stretch the range. The reference's formula: a 100-bin
    histogram of |x| in float32 over [min, max], searched from the top in pairs of bins. NaN where a value
    is not finite.
    """
    values = states.abs().float().flatten()
    low, high = (bound.item() for bound in values.aminmax())
    if not math.isfinite(high):
        return math.nan
    counts = torch.histc(values, _BINS, low, high)
    edges = torch.linspace(low, high, _BINS + 1)
    for upper in range(_BINS, 2, -1):
        if counts[upper - 2 : upper].sum().item() / values.numel() > _DENSE:
            return edges[upper].item() / high if high > 0 else 1.0
    return 1.0
