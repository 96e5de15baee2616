"""Finds the range of a histogram by torch's non-linear parameter search (torch <= 2.1), for the reference's act_method 2."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, repeat

import numpy as np
import torch
from torch import Tensor

__all__ = ["search_range"]

_STEP = 1e-5  # change of a quantile per step
_LEVELS = 256


def search_range(histogram: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range `low..high`, narrowed by whole bins until the quantization error would grow.

    `histogram` is float32 `[bins]`; `low`, `high` and the results are float32 scalars. The result equals the
    reference's bit for bit: operations are in float32 where torch's are, and in the same order.
    """
    best, least = (0, len(histogram) - 1), math.inf
    bin_width = (high.item() - low.item()) / len(histogram)
    if bin_width > 0:
        for kept in _narrowing(histogram):
            error = _squared_error(histogram, bin_width, *kept)
            if error > least:
                break
            best, least = kept, error
    width = (high - low) / len(histogram)
    return low + width * best[0], low + width * (best[1] + 1)


def _narrowing(histogram: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the first and the last kept bin each time that bins are dropped; two quantiles move towards each other.

    A step tries both quantiles and moves the one that drops more bins, on a tie the upper one.
    """
    total = histogram.sum().item()
    sums = histogram.cumsum(0).tolist()
    betas = _falling_quantiles()

    def count_at(quantile: float) -> float:
        return float(np.float32(quantile * total))  # torch rounds a Python float to float32 for a comparison

    first, last = 0, len(sums) - 1
    alpha, step = 0.0, 0
    while first < last and alpha < betas[step]:
        # A scan, no bisection: merging leaves bins slightly below 0, so the sums are not sorted.
        left, lower_count = first, count_at(alpha + _STEP)
        while left < last and sums[left] < lower_count:
            left += 1
        if left == first:  # only beta moves, so skip to the step before it drops a bin
            step = bisect_right(betas, -sums[last], step + 1, key=lambda beta: -count_at(beta)) - 1
            if step + 1 == len(betas) or alpha >= betas[step]:
                return
        right, upper_count = last, count_at(betas[step + 1])
        while right > first and sums[right] > upper_count:
            right -= 1
        if left - first > last - right:
            first, alpha = left, alpha + _STEP
        else:
            last, step = right, step + 1
        yield first, last


@cache
def _falling_quantiles() -> list[float]:
    """Return the upper quantile after 0, 1, 2, ... steps, down to below 0, with the steps' accumulated rounding errors."""
    return list(accumulate(repeat(-_STEP, 100_001), initial=1.0))


def _squared_error(histogram: Tensor, bin_width: float, first: int, last: int) -> float:
    """Return the squared error of rounding to the centers of 256 cells that cover the bins first..last.

    Values are treated as spread evenly over their bin. A bin covers part of the cell it begins in, whole cells, and part
    of the cell it ends in.
    """
    cell = bin_width * (last - first + 1) / _LEVELS
    begin = torch.arange(-first, len(histogram) - first, dtype=torch.float32) * bin_width
    end = begin + bin_width
    cell_of_begin, cell_of_end = (
        torch.div(edge, cell, rounding_mode="floor").clamp_(0, _LEVELS - 1) for edge in (begin, end)
    )
    half = torch.tensor(cell / 2, dtype=torch.float32)
    density = histogram / bin_width
    error = density * _integral_of_square(begin - (cell_of_begin + 0.5) * cell, half)
    error += (cell_of_end - cell_of_begin - 1) * (density * _integral_of_square(-half, half))
    error += density * _integral_of_square(-half, end - (cell_of_end * cell + cell / 2))
    return error.sum().item()


def _integral_of_square(begin: Tensor, end: Tensor) -> Tensor:
    return (end * end * end - begin * begin * begin) / 3
