"""How well a tensor's values fill its range: the score by which fa_amp chooses layers to leave in float."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fa3cli.numerics.row_blocks import token_blocks

__all__ = ["fallback_score"]

_BINS = 100
_DENSE = 0.002  # two neighbouring bins with more than this share of the values end the search


def fallback_score(states: Tensor) -> float:
    """Return the share of the range of |states| below which values are dense, in (0, 1]: `[B, H, S, D]`.

    A low score means that a few outliers stretch the range. The reference's formula: a 100-bin
    histogram of |x| in float32 over [min, max], searched from the top in pairs of bins. NaN where a value
    is not finite. Counted a block at a time, so that no |x| of all states is held, and no count stops at 2^24.
    """
    low, high = _bounds(states)
    if not math.isfinite(high):
        return math.nan
    counts = torch.zeros(_BINS, dtype=torch.float64)
    for values in _magnitudes(states):
        counts += torch.histc(values, _BINS, low, high).cpu()
    edges = torch.linspace(low, high, _BINS + 1)
    for upper in range(_BINS, 2, -1):
        if counts[upper - 2 : upper].sum().item() / states.numel() > _DENSE:
            return edges[upper].item() / high if high > 0 else 1.0
    return 1.0


def _bounds(states: Tensor) -> tuple[float, float]:
    """Return the least and the largest |x|, NaN where there is one."""
    # As numbers: small tensors that stay behind keep the heap from using a block's place for the next one.
    bounds = [[bound.item() for bound in values.aminmax()] for values in _magnitudes(states)]
    lows, highs = torch.tensor(bounds).unbind(1)
    return lows.amin().item(), highs.amax().item()


def _magnitudes(states: Tensor) -> Iterator[Tensor]:
    """Yield |x| of a block of tokens after another: `[values]`, float32."""
    return (block.abs().float().flatten() for block in token_blocks(states))
