"""act_method 2 of improved numerics: the same counts in any order and split, and a range of little error."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.affine import asymmetric_offset, asymmetric_scale, fake_quantize
from fa3cli.observers.mergeable_histogram import MergeableHistogram
from fa3cli.observers.reference_histogram import HistogramRange

BINS = 1024
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(-1000, 1000, width=32)
samples = st.lists(st.lists(finite | ordinary, max_size=8), max_size=6)


def observe(*rows: list[float] | Tensor) -> MergeableHistogram:
    observer = MergeableHistogram()
    for row in rows:
        observer = observer.updated(torch.as_tensor(row, dtype=torch.float32))
    return observer


def bounds(observer: MergeableHistogram) -> tuple[float, float]:
    low, high = observer.bounds()
    assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
    return low.item(), high.item()


def assert_same(one: MergeableHistogram, other: MergeableHistogram) -> None:
    assert torch.equal(one.counts, other.counts) and one.counts.dtype == torch.int64
    assert (one.exponent, one.low, one.high) == (other.exponent, other.low, other.high)
    assert str(bounds(one)) == str(bounds(other))


@settings(deadline=None)
@given(rows=samples, random=st.randoms(use_true_random=False))
def test_any_order_and_split_give_the_same_histogram(rows: list[list[float]], random) -> None:
    at_once = observe([value for row in rows for value in row])
    assert_same(observe(*rows), at_once)
    random.shuffle(rows)
    ranks = random.randint(1, 4)
    first, *others = (observe(*rows[rank::ranks]) for rank in range(ranks))
    assert_same(first.merged(*others), at_once)


@settings(deadline=None)
@given(rows=samples)
def test_every_value_except_zero_is_counted_in_its_bin(rows: list[list[float]]) -> None:
    observer = observe(*rows)
    values = [value for row in rows for value in row]
    width = Fraction(2) ** observer.exponent / BINS
    expected = torch.zeros(2, BINS, dtype=torch.int64)
    for value in filter(None, values):
        expected[int(value >= 0), int(abs(Fraction(value)) / width)] += 1
    assert torch.equal(observer.counts, expected)
    assert values == [] or (observer.low, observer.high) == (min(values), max(values))


@given(rows=samples)
@settings(deadline=None)
def test_the_bins_end_between_once_and_twice_the_largest_magnitude(rows: list[list[float]]) -> None:
    observer = observe(*rows)
    largest = max((abs(Fraction(value)) for row in rows for value in row), default=0)
    assert largest < Fraction(2) ** observer.exponent
    assert observer.exponent == -100 or Fraction(2) ** (observer.exponent - 1) <= largest


@settings(deadline=None)
@given(rows=samples)
def test_the_range_contains_zero_and_stays_within_the_values(rows: list[list[float]]) -> None:
    observer = observe(*rows)
    if not any(rows):
        assert_no_bounds(observer)
        return
    low, high = bounds(observer)
    assert min(observer.low, 0) <= low <= 0 <= high <= max(observer.high, 0)


def expected_error(observer: MergeableHistogram, low: float, high: float) -> float:
    """The error of values at 256 places per bin, instead of an integral: the distance of clipped values
    and of those rounded to 0, else scale^2 / 12.
    """
    width = 2.0**observer.exponent / BINS
    places = (torch.arange(BINS * 256, dtype=torch.double) + 0.5) / 256 * width
    values = torch.stack([-places, places])
    scale = (high - low) / 255
    errors = torch.full_like(values, scale**2 / 12)
    errors = torch.where(values.abs() < scale / 2, values**2, errors)
    if low > observer.low:  # the exact ends do not clip
        errors = torch.where(values < low, (values - low) ** 2, errors)
    if high < observer.high:
        errors = torch.where(values > high, (values - high) ** 2, errors)
    return (errors * observer.counts.repeat_interleave(256, dim=1)).sum().item() / 256


@st.composite
def outlier_heavy(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(20000, generator=generator) + draw(st.sampled_from([0, 0, 2, 6]))
    if draw(st.booleans()):
        values = values**3
    outliers = draw(st.integers(0, 40))
    values[:outliers] *= draw(st.floats(1, 60))
    return values.relu() if draw(st.booleans()) else values


@settings(max_examples=15, deadline=None)
@given(values=outlier_heavy(), data=st.data())
def test_no_pair_of_bin_edges_has_a_lower_error(values: Tensor, data: st.DataObject) -> None:
    observer = observe(values)
    found = bounds(observer)
    least = expected_error(observer, *found)
    width = 2.0**observer.exponent / BINS
    near = st.sampled_from([-64, -16, -4, -1, 0, 1, 4, 16, 64])
    for _ in range(10):
        low, high = (round(bound / width) + data.draw(near | st.integers(-BINS, BINS)) for bound in found)
        low, high = max(min(low, 0) * width, min(observer.low, 0)), min(max(high, 0) * width, observer.high)
        assert least <= expected_error(observer, low, high) * 1.01


def squared_error(values: Tensor, low: Tensor, high: Tensor) -> float:
    scale = asymmetric_scale(low, high)
    rounded = fake_quantize(values, scale, asymmetric_offset(low, scale))
    return (rounded - values).double().square().mean().item()


@settings(max_examples=15, deadline=None)
@given(values=outlier_heavy())
def test_the_error_is_not_above_that_of_min_max_and_the_reference(values: Tensor) -> None:
    ours = squared_error(values, *observe(values).bounds())
    full = values.min().view(1), values.max().view(1)
    assert ours <= 1.04 * squared_error(values, *full)
    assert ours <= 1.04 * squared_error(values, *HistogramRange().updated(values).bounds())


def test_a_few_outliers_give_less_than_half_the_error_of_min_max() -> None:
    values = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    values[:3] = torch.tensor([80.0, -90.0, 100.0])
    ours = squared_error(values, *observe(values).bounds())
    assert ours < 0.5 * squared_error(values, values.min().view(1), values.max().view(1))


@pytest.mark.parametrize("row", [[0.0], [-0.0], [0.0, 1e-45, -1e-45]])
def test_zeros_give_an_empty_range(row: list[float]) -> None:
    assert bounds(observe(row)) == pytest.approx((0, 0), abs=1e-44)


@pytest.mark.parametrize(("value", "expected"), [(2.5, (0, 2.5)), (-2.5, (-2.5, 0)), (3e38, (0, 3e38))])
def test_a_constant_is_the_end_of_the_range(value: float, expected: tuple[float, float]) -> None:
    assert bounds(observe([value] * 9)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_shape_and_dtype_count_as_float32(dtype: torch.dtype) -> None:
    values = torch.randn(2, 3, 40).to(dtype)
    assert_same(MergeableHistogram().updated(values), observe(values.float().flatten()))
    assert_same(MergeableHistogram().updated(values.transpose(0, 2)), observe(values.float().flatten()))


@given(rows=samples)
@settings(max_examples=25, deadline=None)
def test_an_update_does_not_change_the_old_histogram(rows: list[list[float]]) -> None:
    observer = observe(*rows)
    observer.updated(torch.tensor([1e20, -3.0])), observer.merged(observe([5.0]))
    assert_same(observer, observe(*rows))


@given(rows=samples, wrong=st.sampled_from([math.nan, math.inf, -math.inf]), place=st.integers(0, 6))
@settings(deadline=None)
def test_a_non_finite_value_gives_no_bounds(rows: list[list[float]], wrong: float, place: int) -> None:
    broken = [*rows[:place], [1.0, wrong], *rows[place:]]
    assert_no_bounds(observe(*broken))
    assert_same(observe(*rows).merged(observe([wrong])).updated(torch.ones(2)), observe([wrong]))


def assert_no_bounds(observer: MergeableHistogram) -> None:
    assert all(map(math.isnan, bounds(observer)))
