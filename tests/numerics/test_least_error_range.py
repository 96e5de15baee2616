"""Tests the search for the range with the least error, against the error of each pair of bounds, integrated bin by bin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fa3cli.numerics.least_error_range import least_error_range


def squares(begin: float, end: float, center: float) -> float:
    """The integral of (x - center)^2."""
    return ((end - center) ** 3 - (begin - center) ** 3) / 3 if end > begin else 0.0


def side_error(counts: list[int], bound: float, limit: float, scale: float) -> float:
    """The error of evenly spread values: small ones become 0, large ones the bound, others are rounded."""
    total, last = 0.0, bound == limit
    for place, count in enumerate(counts):
        if count:
            begin, end = float(place), place + 1.0
            clipped = end if last else max(begin, min(end, bound))  # where clipping begins
            small = max(begin, min(end, scale / 2, bound))  # where values no longer become 0
            total += count * (
                squares(begin, small, 0) + max(clipped - small, 0) * scale**2 / 12 + squares(clipped, end, bound)
            )
    return total


def error(counts: list[list[int]], limits: list[float], bounds: tuple[float, float]) -> float:
    scale = sum(bounds) / 255
    return sum(side_error(*side, scale) for side in zip(counts, bounds, limits))


def candidates(limit: float) -> list[float]:
    return [limit, *range(math.ceil(limit) - 1, -1, -1)]


def search(counts: list[list[int]], limits: list[float]) -> tuple[float, float]:
    below, above = least_error_range(torch.tensor(counts, dtype=torch.int64), *limits)
    assert below.dtype == above.dtype == torch.float64 and below.shape == above.shape == ()
    return below.item(), above.item()


def limit_of(counts: list[int], share: float) -> float:
    """A largest magnitude within the last bin that is not empty."""
    filled = [place for place, count in enumerate(counts) if count]
    return filled[-1] + share if filled else 0.0


sides = st.lists(st.integers(0, 4) | st.integers(0, 10**6), min_size=14, max_size=14)
shares = st.floats(0.01, 1)


@settings(max_examples=30)
@given(below=sides, above=sides, share=shares)
@example(below=[0] * 14, above=[10**6] + [0] * 12 + [1], share=0.5)  # a single outlier
@example(below=[0] * 14, above=[0] * 13 + [1], share=1.0)
def test_no_pair_of_bounds_has_a_lower_error(below: list[int], above: list[int], share: float) -> None:
    counts = [below, above]
    limits = [limit_of(side_counts, share) for side_counts in counts]
    found = search(counts, limits)
    assert found[0] in candidates(limits[0]) and found[1] in candidates(limits[1])
    pairs = [(lower, upper) for lower in candidates(limits[0]) for upper in candidates(limits[1])]
    least = min(error(counts, limits, pair) for pair in pairs)
    assert error(counts, limits, found) <= least * (1 + 1e-9)


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), power=st.sampled_from([1, 2, 6]))
def test_no_neighbouring_or_coarse_bound_has_a_lower_error_over_many_bins(seed: int, power: int) -> None:
    """Uses more bins than the strides of the search, and longer and longer tails."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3000, generator=generator)
    magnitudes = values.abs() ** power
    magnitudes *= 199.9 / magnitudes.max()
    counts = [torch.histc(magnitudes[chosen], 200, 0, 200).long().tolist() for chosen in (values < 0, values >= 0)]
    limits = [magnitudes[chosen].max().item() for chosen in (values < 0, values >= 0)]
    best = search(counts, limits)
    found = error(counts, limits, best)
    sides = []
    for bound, limit in zip(best, limits):
        bounds = candidates(limit)
        place = bounds.index(bound)
        sides.append([*bounds[::40], *bounds[max(place - 2, 0) : place + 3]])
    for lower in sides[0]:
        for upper in sides[1]:
            assert found <= error(counts, limits, (lower, upper)) * (1 + 1e-9)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_evenly_spread_values_are_not_clipped(share: float) -> None:
    counts = [[1000] * 64, [1000] * 64]
    assert search(counts, [63 + share] * 2) == (63 + share,) * 2


def test_a_single_outlier_is_clipped_if_that_lowers_the_error() -> None:
    """Clipping costs the squared distance to the bound; not clipping costs coarser steps for all others."""
    for others, clipped in ((10**9, True), (1, False)):
        _, upper = search([[0] * 400, [others] * 8 + [0] * 391 + [1]], [0.0, 399.5])
        assert (upper < 399.5) == clipped


def test_both_sides_are_treated_alike() -> None:
    counts = [[9, 3, 0, 0, 1], [50, 20, 20, 0, 0]]
    below, above = search(counts, [4.5, 2.5])
    assert search(counts[::-1], [2.5, 4.5]) == (above, below)


def test_a_side_without_values_has_a_bound_of_0() -> None:
    assert search([[0] * 4, [7] * 4], [0.0, 4.0]) == (0.0, 4.0)
    assert search([[0] * 4, [0] * 4], [0.0, 0.0]) == (0.0, 0.0)


def test_every_bin_of_a_smooth_tail_is_compared() -> None:
    """A bound one bin away has almost the same error."""
    counts = [[0] * 160, [int(1e9 * math.exp(-((place / 24) ** 2) / 2)) for place in range(160)]]
    limits = [0.0, limit_of(counts[1], 0.5)]
    errors = {upper: error(counts, limits, (0.0, upper)) for upper in candidates(limits[1])}
    assert search(counts, limits) == (0.0, min(errors, key=errors.get))
