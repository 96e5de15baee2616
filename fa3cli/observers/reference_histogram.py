"""The range of a linear's input by histogram (act_method 2) as the reference observes it, sample after sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fa3cli.numerics.search_range import search_range

__all__ = ["HistogramRange"]

_BINS = 2048
_UPSAMPLE = 128  # sub-bins a bin is split into before it is laid over a wider range


@dataclass(frozen=True, eq=False)
class HistogramRange:
    """Histogram of the samples so far; torch <= 2.1's, bit for bit, so the order of the samples counts."""

    tokens: int = 0
    # The range the bins are read over: float32 scalars, NaN once a value was not finite.
    low: Tensor = field(default_factory=lambda: torch.tensor(math.inf))
    high: Tensor = field(default_factory=lambda: torch.tensor(-math.inf))
    counts: Tensor | None = None  # float32 [2048]; merging makes them fractions, some a little below 0

    def updated(self, values: Tensor) -> HistogramRange:
        """Return the observer after one more sample, `[..., in]`, of any float dtype."""
        tokens = self.tokens + values.shape[:-1].numel()
        values = values.detach().to("cpu", torch.float32)
        return replace(self, tokens=tokens, **self._counted(values)) if values.numel() else self

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest value to keep, `[1]` each, float32; NaN where there is none."""
        if self.counts is None:
            return torch.full((1,), math.nan), torch.full((1,), math.nan)
        low, high = search_range(self.counts, self.low, self.high)
        return low.view(1), high.view(1)

    def _counted(self, values: Tensor) -> dict[str, Tensor | None]:
        """Return low, high and counts with a sample of float32 values."""
        sample_low, sample_high = torch.aminmax(values)
        low, high = torch.minimum(sample_low, self.low), torch.maximum(sample_high, self.high)
        if not (high - low).isfinite():
            return {"low": torch.tensor(math.nan), "high": torch.tensor(math.nan), "counts": None}
        sub_bin = (self.high - self.low) / (_BINS * _UPSAMPLE)
        run = torch.ceil((high - low) / (_BINS * sub_bin)).item()  # old sub-bins that make up a new bin
        if self.counts is None or not math.isfinite(run):
            # Samples of one value have no width to merge by: the reference forgets them.
            counts = _histogram(values, sample_low, sample_high)
            return {"low": sample_low, "high": sample_high, "counts": counts}
        high = high + (run * (_BINS * sub_bin) - (high - low))
        counts = _histogram(values, low, high)
        if low == self.low and high == self.high:
            return {"low": low, "high": high, "counts": counts + self.counts}
        start = torch.round((self.low - low) / sub_bin).item()
        return {"low": low, "high": high, "counts": counts + _rebinned(self.counts, run, start)}


def _histogram(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Count values between the whole parts of the bounds, as torch did: those outside are lost.

    Where the whole parts are equal, histc takes the values' own range.
    """
    return torch.histc(values, _BINS, low.trunc().item(), high.trunc().item())


def _rebinned(counts: Tensor, run: float, start: float) -> Tensor:
    """Return the counts in bins of `run` sub-bins each, the first sub-bin lying `start` sub-bins in."""
    # Rounding may lay the end outside of the new range, where the reference fails.
    start = min(start, _BINS * (run - _UPSAMPLE))
    sums = counts.repeat_interleave(_UPSAMPLE).cumsum(0, dtype=torch.double)
    sums = torch.cat([sums.new_zeros(1), sums])
    edges = torch.arange(_BINS + 1, dtype=torch.double) * run - start
    at_edges = sums[edges.clamp_(0, _BINS * _UPSAMPLE).long()]
    # The sum up to a bin's begin went through a float32, which rounds it from 2^24 sub-bin counts on.
    return ((at_edges[1:] - at_edges[:-1].float()) / _UPSAMPLE).float()
