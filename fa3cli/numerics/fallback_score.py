"""Computes fa_amp's fallback score: how well a tensor's values fill its range."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fa3cli.numerics.row_blocks import token_blocks

__all__ = ["fallback_score"]

_BINS = 100
_DENSE = 0.002  # the search ends at two neighbouring bins with more than this share of the values


def fallback_score(states: Tensor) -> float:
    """Return the share of the range of |states| below which values are dense, in (0, 1]: `[B, H, S, D]`.

    A low score means that a few outliers stretch the range. The formula is the reference's: a 100-bin histogram of |x|
    in float32 over [min, max] is searched from the top in pairs of bins. NaN if a value is not finite. Blocks are
    counted and summed in float64, which needs less memory; a float32 count would stop at 2^24.
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
    """Return the least and the largest |x|; NaN if a value is NaN."""
    # Stored as Python numbers: small tensors that outlive a block would fragment the heap; the next needs new memory.
    bounds = [[bound.item() for bound in values.aminmax()] for values in _magnitudes(states)]
    lows, highs = torch.tensor(bounds).unbind(1)
    return lows.amin().item(), highs.amax().item()


def _magnitudes(states: Tensor) -> Iterator[Tensor]:
    """Yield |x| of each block of tokens: `[values]`, float32."""
    return (block.abs().float().flatten() for block in token_blocks(states))
