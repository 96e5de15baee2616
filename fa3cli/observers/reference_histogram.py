"""Observes the range of a linear's input with the reference's histogram (act_method 2), in the order of the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fa3cli.numerics.search_range import search_range
from fa3cli.observers import InOrder

__all__ = ["HistogramRange"]

_BINS = 2048
_UPSAMPLE = 128  # sub-bins per bin, to map a bin onto a wider range


@dataclass(frozen=True, eq=False)
class HistogramRange(InOrder):
    """Histogram of the samples so far, equal to torch <= 2.1 bit for bit; so the order of the samples matters."""

    tokens: int = 0
    # The range of the bins: float32 scalars, NaN after a value that is not finite.
    low: Tensor = field(default_factory=lambda: torch.tensor(math.inf))
    high: Tensor = field(default_factory=lambda: torch.tensor(-math.inf))
    counts: Tensor | None = None  # float32 [2048]; merging gives fractions, some slightly below 0

    def updated(self, values: Tensor) -> HistogramRange:
        """Return the observer after one more sample, `[..., in]`, of any float dtype."""
        tokens = self.tokens + values.shape[:-1].numel()
        values = values.detach().to("cpu", torch.float32)
        if not values.numel():
            return self
        low, high, counts = self._counted(values)
        return replace(self, tokens=tokens, low=low, high=high, counts=counts)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest value to keep, `[1]` each, float32; NaN if there are no counts."""
        if self.counts is None:
            return torch.full((1,), math.nan), torch.full((1,), math.nan)
        low, high = search_range(self.counts, self.low, self.high)
        return low.view(1), high.view(1)

    def _counted(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return low, high and counts (scalars and `[2048]`, float32) with a sample of float32 values, `[..., in]`."""
        sample_low, sample_high = torch.aminmax(values)
        low, high = torch.minimum(sample_low, self.low), torch.maximum(sample_high, self.high)
        if not (high - low).isfinite():
            return torch.tensor(math.nan), torch.tensor(math.nan), None
        sub_bin = (self.high - self.low) / (_BINS * _UPSAMPLE)
        run = torch.ceil((high - low) / (_BINS * sub_bin)).item()  # number of old sub-bins per new bin
        if self.counts is None or not math.isfinite(run):
            # A range of width 0 (one repeated value) cannot be merged: the reference drops the earlier samples.
            return sample_low, sample_high, _histogram(values, sample_low, sample_high)
        high = high + (run * (_BINS * sub_bin) - (high - low))
        counts = _histogram(values, low, high)
        if low == self.low and high == self.high:
            return low, high, counts + self.counts
        start = torch.round((self.low - low) / sub_bin).item()
        return low, high, counts + _rebinned(self.counts, run, start)


def _histogram(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Count values between the truncated bounds, like torch <= 2.1: `[..., in] -> [2048]`, float32.

    Values outside are not counted. If the truncated bounds are equal, histc uses the values' own range.
    """
    return torch.histc(values, _BINS, low.trunc().item(), high.trunc().item())


def _rebinned(counts: Tensor, run: float, start: float) -> Tensor:
    """Return the counts in new bins of `run` sub-bins each: `[2048] -> [2048]`, float32.

    The old range begins `start` sub-bins after the new one.
    """
    # Rounding may put the old range's end outside the new range; the reference fails there.
    start = min(start, _BINS * (run - _UPSAMPLE))
    sums = counts.repeat_interleave(_UPSAMPLE).cumsum(0, dtype=torch.double)
    sums = torch.cat([sums.new_zeros(1), sums])
    edges = torch.arange(_BINS + 1, dtype=torch.double) * run - start
    at_edges = sums[edges.clamp_(0, _BINS * _UPSAMPLE).long()]
    # torch stored the sum at a bin's begin as float32, which rounds sums above 2^24.
    return ((at_edges[1:] - at_edges[:-1].float()) / _UPSAMPLE).float()
