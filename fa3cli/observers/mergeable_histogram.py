"""Observes the range of a linear's input with a histogram (act_method 2, improved numerics): exact, in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from fa3cli.numerics.least_error_range import least_error_range

__all__ = ["MergeableHistogram"]

_BINS = 1024  # on each side of zero
_SMALLEST = -100  # smallest exponent of a histogram


@dataclass(frozen=True, eq=False)
class MergeableHistogram:
    """Counts of all samples' values by sign and magnitude, in bins that divide 0..2^exponent.

    Only the largest magnitude determines the exponent, and one bin of the next wider histogram is exactly two bins of
    this one. So the same values give the same counts in every order and split. Zeros are not counted: every range
    represents them exactly.
    """

    tokens: int = 0
    # Row 0: negative values; row 1: the others.
    counts: Tensor = field(default_factory=lambda: torch.zeros(2, _BINS, dtype=torch.int64))
    exponent: int = _SMALLEST
    low: float = math.inf  # exact; NaN after a value that is not finite
    high: float = -math.inf

    def updated(self, values: Tensor) -> MergeableHistogram:
        """Return the histogram with one more sample, `[..., in]`, of any float dtype and device."""
        if values.numel() == 0:
            return self
        tokens = values.shape[:-1].numel()
        values = values.detach().float()
        low, high = (torch.stack(torch.aminmax(values)) + 0.0).tolist()  # -0.0 becomes 0.0
        if not (math.isfinite(low) and math.isfinite(high)):
            return self.merged(MergeableHistogram(tokens, low=math.nan, high=math.nan))
        exponent = _exponent(max(-low, high))
        return self.merged(MergeableHistogram(tokens, _counts(values, exponent), exponent, low, high))

    def merged(self, *others: MergeableHistogram) -> MergeableHistogram:
        """Return the histogram of all observers' values."""
        return reduce(MergeableHistogram._with, others, self)

    def _with(self, other: MergeableHistogram) -> MergeableHistogram:
        tokens = self.tokens + other.tokens
        if math.isnan(self.low) or math.isnan(other.low):
            return MergeableHistogram(tokens, low=math.nan, high=math.nan)
        exponent = max(self.exponent, other.exponent)
        counts = _coarsened(self.counts, exponent - self.exponent)
        counts += _coarsened(other.counts, exponent - other.exponent)
        return MergeableHistogram(tokens, counts, exponent, min(self.low, other.low), max(self.high, other.high))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the range around 0 with the least expected squared error, float32 `[1]` each.

        NaN if there was no value, or one that is not finite.
        """
        if not math.isfinite(self.low):
            return torch.full((1,), math.nan), torch.full((1,), math.nan)
        bin_width = math.ldexp(1 / _BINS, self.exponent)
        limits = max(-self.low, 0.0) / bin_width, max(self.high, 0.0) / bin_width
        below, above = (bound * bin_width for bound in least_error_range(self.counts, *limits))
        return (0 - below).float().view(1), above.float().view(1)


def _exponent(magnitude: float) -> int:
    """Return the smallest exponent whose power of two is larger than the magnitude."""
    return max(math.frexp(magnitude)[1], _SMALLEST) if magnitude > 0 else _SMALLEST


def _counts(values: Tensor, exponent: int) -> Tensor:
    """Count the values that are not 0 in bins of 2^exponent / 1024, by sign: int64 `[2, 1024]` on the CPU."""
    # Scaling by a power of two and truncation are exact: integers from -1023 to 1023.
    positions = (values * math.ldexp(_BINS, -exponent)).to(torch.int32)
    # Truncation maps -1..0 and 0..1 to the same 0: moving the values >= 0 up by one separates them.
    positions.add_(values >= 0).add_(_BINS - 1)
    negative, others = positions.flatten().bincount(minlength=2 * _BINS).cpu().view(2, _BINS)
    others[0] -= values.numel() - values.count_nonzero().item()
    return torch.stack([negative.flip(0), others])


def _coarsened(counts: Tensor, doublings: int) -> Tensor:
    """Return the counts in bins 2^doublings times as wide."""
    # After 10 doublings, all 1024 bins are one; a shift by 64 or more would be undefined.
    bins = torch.arange(_BINS) >> min(doublings, 10)
    return torch.zeros_like(counts).index_add_(1, bins, counts)
