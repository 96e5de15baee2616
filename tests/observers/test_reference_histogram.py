"""Tests the reference's act_method 2 against ranges of the reference itself, and a plain version of its merging."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.observers.reference_histogram import HistogramRange

BINS, UPSAMPLE = 2048, 128


def cubic(count: int, scale: float, shift: float = 0.0) -> Tensor:
    """Values with many near the middle and few in the tails, without a random generator."""
    even = torch.arange(count) * 7919 % 10007 / 10007 - 0.5
    return even * even * even * scale + shift


def running_bounds(samples: list[Tensor]) -> list[tuple[float, float]]:
    observer, found = HistogramRange(), []
    for sample in samples:
        observer = observer.updated(sample)
        low, high = observer.bounds()
        assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
        found.append((low.item(), high.item()))
    return found


# Ranges msModelSlim 26.1.0 (torch 2.13, one thread) had after each of these samples, on any processor.
FOUND_BY_THE_REFERENCE = {
    "growing": (
        [(20,), (30,), (500,), (40,)],
        [
            (-2.4951186180114746, 2.4985008239746094),
            (-3.742677927017212, 3.747751235961914),
            (-62.5, 62.196388244628906),
            (-62.5, 62.196388244628906),
        ],
    ),
    "shrinking": ([(500,), (40,), (8,), (200,)], [(-62.5, 62.157440185546875)] * 4),
    "below one": (
        [(3,), (5,), (7,), (2,)],
        [
            (-0.375, 0.3722124695777893),
            (-0.625, 0.6273062229156494),
            (-0.875, 0.8711363077163696),
            (-0.875, 0.8711363077163696),
        ],
    ),
    "between two integers": (
        [(2, 3.4), (2.5, 3.4), (3, 3.4), (0.5, 3.4)],
        [
            (3.1500000953674316, 3.648141622543335),
            (3.0875000953674316, 3.7143757343292236),
            (3.0250000953674316, 3.7761471271514893),
            (3.0250000953674316, 3.7739453315734863),
        ],
    ),
    "one-sided": (
        [(40, 20), (80, 20), (120, 20), (60, 20)],
        [
            (15.0, 24.97259521484375),
            (10.0, 29.974477767944336),
            (5.0, 34.96171569824219),
            (5.0, 34.96171569824219),
        ],
    ),
    # Cubes of such values overflow or underflow in float32, so no error grows.
    "enormous": (
        [(1e16,), (2e16,)],
        [(-1250000034070528.0, -1248779726487552.0), (-2500000068141056.0, -2497559452975104.0)],
    ),
    "vanishing": (
        [(1e-15,), (2e-15,)],
        [
            (-1.2500000045343672e-16, -1.248779615345831e-16),
            (-2.5000000090687343e-16, -2.497559230691662e-16),
        ],
    ),
    "one value first": (
        [(0, 2.5), (20,), (30,), (25,)],
        [
            (2.5, 2.5),
            (-2.4951186180114746, 2.4985008239746094),
            (-3.742677927017212, 3.747751235961914),
            (-3.742677927017212, 3.747751235961914),
        ],
    ),
    "one value": ([(0, 2.5), (0, 2.5)], [(2.5, 2.5)] * 2),
    "one value last": (
        [(20,), (30,), (0, 9.5)],
        [
            (-2.4951186180114746, 2.4985008239746094),
            (-3.742677927017212, 3.747751235961914),
            (-3.75, 3.742431163787842),
        ],
    ),
}


@pytest.mark.parametrize("name", FOUND_BY_THE_REFERENCE)
def test_ranges_equal_those_of_the_reference(name: str) -> None:
    samples, expected = FOUND_BY_THE_REFERENCE[name]
    assert running_bounds([cubic(4000, *sample) for sample in samples]) == expected


def bell(count: int, seed: int) -> Tensor:
    """Nearly normal values, made by sums only: torch.randn gives other last bits without AVX2."""
    generator = torch.Generator().manual_seed(seed)
    return sum(torch.rand(count, generator=generator) for _ in range(12)) - 6


def test_ranges_of_long_samples_equal_those_of_the_reference() -> None:
    """2^18 values in 2^7 sub-bins each: sums above 2^24 show the float32 rounding of the reference."""
    samples = [bell(2**18, seed) * scale for seed, scale in enumerate((3, 5, 7))]
    assert running_bounds(samples) == [
        (-11.167633056640625, 11.932884216308594),
        (-18.97536849975586, 17.996557235717773),
        (-25.277450561523438, 24.916545867919922),
    ]


@st.composite
def some_samples(draw: st.DrawFn) -> list[Tensor]:
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scales = draw(st.lists(st.floats(0.25, 4), min_size=1, max_size=4))
    drawn = [(torch.randn(2, 50, 5, generator=generator) * scale).to(dtype) for scale in scales]
    return [*drawn, drawn[0] / 2] if draw(st.booleans()) else drawn  # one that does not widen the range


def merged_plainly(samples: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The histogram with every sub-bin written out; counts over the same range are simply added."""
    low, high = samples[0].float().aminmax()
    counts = torch.histc(samples[0].float(), BINS, int(low), int(high))
    for sample in samples[1:]:
        values = sample.float()
        old_low, sub_bin = low, (high - low) / (BINS * UPSAMPLE)
        low, united = torch.minimum(low, values.min()), torch.maximum(high, values.max())
        run = math.ceil((united - low) / (BINS * sub_bin))
        old_high, high = high, united + (run * (BINS * sub_bin) - (united - low))
        new = torch.histc(values, BINS, int(low), int(high))
        if (low, high) == (old_low, old_high):
            counts = new + counts
            continue
        start = int(torch.round((old_low - low) / sub_bin))
        laid = torch.zeros(BINS * run, dtype=torch.double)
        laid[start : start + BINS * UPSAMPLE] = counts.repeat_interleave(UPSAMPLE)
        ends = laid.cumsum(0)[run - 1 :: run]
        begins = torch.cat([ends.new_zeros(1), ends[:-1]]).float()
        counts = new + ((ends - begins) / UPSAMPLE).float()
    return low, high, counts


@settings(max_examples=25, deadline=None)
@given(samples=some_samples())
def test_merging_equals_a_plain_implementation(samples: list[Tensor]) -> None:
    observer = HistogramRange()
    for sample in samples:
        observer = observer.updated(sample)
    assert all(map(torch.equal, (observer.low, observer.high, observer.counts), merged_plainly(samples)))


def test_counts_over_the_same_range_are_added_without_rounding() -> None:
    """Also fractions, which a merge would round."""
    before = HistogramRange().updated(cubic(4000, 30)).updated(cubic(4000, 70))
    assert not torch.equal(before.counts, before.counts.round())
    added = torch.histc(cubic(4000, 20), BINS, int(before.low), int(before.high))
    assert torch.equal(before.updated(cubic(4000, 20)).counts, before.counts + added)


@given(samples=some_samples())
@settings(max_examples=25, deadline=None)
def test_an_update_does_not_change_the_old_observer(samples: list[Tensor]) -> None:
    observers = [HistogramRange()]
    for sample in samples:
        observers.append(observers[-1].updated(sample))
    bounds = [observer.bounds() for observer in observers]
    observers[0].updated(samples[0] * 7)
    again = [observer.updated(samples[0] * 3) and observer.bounds() for observer in observers]
    assert str(again) == str(bounds)


def test_an_empty_sample_changes_nothing() -> None:
    observer = HistogramRange().updated(cubic(100, 5))
    assert observer.updated(torch.empty(1, 0, 8)) is observer


def test_an_observer_without_values_gives_no_bounds() -> None:
    assert_no_bounds(HistogramRange())
    assert_no_bounds(HistogramRange().updated(torch.empty(0)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_non_finite_value_gives_no_bounds(value: float, place: int) -> None:
    samples = [cubic(100, 5), cubic(100, 9), cubic(100, 7)]
    samples[place][50] = value
    observer = HistogramRange()
    for sample in samples:
        observer = observer.updated(sample)
    assert_no_bounds(observer)


@pytest.mark.parametrize("scales", [(0, 0), (1e-40, 1), (1, 1e6), (1e30, 1), (1e-30, 1e30), (1e-42, 1e-41)])
def test_extreme_ranges_have_bounds(scales: tuple[float, float]) -> None:
    """Also ranges for which the reference raises an error."""
    bounds = running_bounds([cubic(1000, scale) for scale in scales])
    assert all(math.isfinite(bound) for pair in bounds for bound in pair)


def assert_no_bounds(observer: HistogramRange) -> None:
    low, high = observer.bounds()
    assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
    assert low.isnan() and high.isnan()
