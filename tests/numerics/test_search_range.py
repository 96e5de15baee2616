"""Tests act_method 2's search: two moving quantiles drop bins until the quantization error grows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.search_range import search_range

LEVELS = 256
histograms = st.lists(st.integers(0, 2000), min_size=1, max_size=40)
lows = st.floats(-16, 16, width=32)
widths = st.floats(0.125, 16, width=32)


def search(counts: list[float], low: float, high: float) -> tuple[float, float]:
    found = search_range(torch.tensor(counts, dtype=torch.float32), torch.tensor(low), torch.tensor(high))
    assert all(bound.dtype == torch.float32 and bound.shape == () for bound in found)
    return found[0].item(), found[1].item()


def walk(counts: list[float]) -> list[tuple[int, int]]:
    """The bins kept after each drop, one step of 1e-5 at a time."""
    histogram = torch.tensor(counts, dtype=torch.float32)
    sums, total = histogram.cumsum(0).tolist(), histogram.sum().item()
    first, last, alpha, beta, kept = 0, len(counts) - 1, 0.0, 1.0, []
    while alpha < beta:
        left, right = first, last
        lower, upper = float(np.float32((alpha + 1e-5) * total)), float(np.float32((beta - 1e-5) * total))
        while left < last and sums[left] < lower:
            left += 1
        while right > first and sums[right] > upper:
            right -= 1
        if left - first > last - right:
            first, alpha = left, alpha + 1e-5
            kept.append((first, last))
        else:
            beta -= 1e-5
            if right != last:
                last = right
                kept.append((first, last))
        if first == last:
            break
    return kept


def squared_error(counts: list[float], width: float, first: int, last: int) -> float:
    """The error of values spread evenly over their bins, each rounded to the center of its cell, in float64."""
    cell = width * (last - first + 1) / LEVELS
    total = 0.0
    for place, count in enumerate(counts):
        begin = (place - first) * width
        cells = [min(max(math.floor(edge / cell), 0), LEVELS - 1) for edge in (begin, begin + width)]
        from_center = begin - (cells[0] + 0.5) * cell, begin + width - (cells[1] + 0.5) * cell
        half = cell / 2
        cubes = half**3 - from_center[0] ** 3 + from_center[1] ** 3 + half**3
        total += count / width * (cubes + (cells[1] - cells[0] - 1) * 2 * half**3) / 3
    return total


def is_where_the_error_grows(counts: list[float], width: float, found: tuple[int, int]) -> bool:
    """Whether the search may end at `found`, within the rounding of the float32 errors."""
    kept = walk(counts)
    if not kept:
        return found == (0, len(counts) - 1)
    errors = [squared_error(counts, width, *bins) for bins in kept] + [math.inf]
    slack = 1e-3 * max(errors[0], 1e-9)
    place = kept.index(found)
    descended = all(errors[drop + 1] <= errors[drop] + slack for drop in range(place))
    return descended and errors[place + 1] >= errors[place] - slack


@settings(max_examples=12, deadline=None)
@given(counts=histograms, low=lows, bin_width=st.sampled_from([0.25, 1.0, 4.0]))
@example(counts=[50000, 49999, 1], low=0.0, bin_width=1.0)  # a sum equal to a quantile
def test_the_search_stops_when_the_error_grows(counts: list[int], low: float, bin_width: float) -> None:
    low = math.floor(low * 4) / 4  # bin edges without rounding
    found = search(counts, low, low + bin_width * len(counts))
    bins = (found[0] - low) / bin_width, (found[1] - low) / bin_width - 1
    assert all(place.is_integer() for place in bins)
    assert is_where_the_error_grows(counts, bin_width, (int(bins[0]), int(bins[1])))


@given(counts=histograms, low=lows, width=widths)
def test_the_search_never_widens_the_range(counts: list[int], low: float, width: float) -> None:
    high = torch.tensor(low + width, dtype=torch.float32).item()
    found = search(counts, low, high)
    assert low <= found[0] <= found[1] <= high + 1e-5 * (abs(low) + width)


def test_a_single_outlier_is_dropped() -> None:
    """Its whole bin is dropped: one step is 5 values."""
    counts = [1000.0] * 512 + [0.0] * 1535 + [1.0]
    assert search(counts, 0.0, 2048.0) == (0.0, 511.0)


def test_a_uniform_range_is_kept_except_for_one_end() -> None:
    low, high = search([100.0] * 2048, -8.0, 8.0)
    assert low == -8.0 and 7.98 < high <= 8.0


@pytest.mark.parametrize("counts", [[0.0] * 8, [5.0], [0.0]])
def test_a_range_without_bins_to_drop_is_kept(counts: list[float]) -> None:
    assert search(counts, -1.5, 2.5) == (-1.5, 2.5)


def test_one_value_is_its_own_range() -> None:
    assert search([0.0] * 1024 + [9.0] + [0.0] * 1023, 2.5, 2.5) == (2.5, 2.5)


def test_slightly_negative_bins_stop_the_scan() -> None:
    """Merging in float32 makes such bins, and the reference scans the sums one by one."""
    counts = [300.0, 5.0, -0.01, 0.005, 700.0, -0.02, 0.01, -0.001]
    found = search(counts, 0.0, 8.0)
    assert is_where_the_error_grows(counts, 1.0, (int(found[0]), int(found[1]) - 1))


def test_the_range_does_not_depend_on_the_number_of_threads() -> None:
    counts: Tensor = torch.arange(2048, dtype=torch.float32) % 97
    threads = torch.get_num_threads()
    expected = search(counts.tolist(), -3.0, 5.0)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert search(counts.tolist(), -3.0, 5.0) == expected
    finally:
        torch.set_num_threads(threads)
