"""act_method 1: the mean over samples of each sample's minimum and maximum, whatever their order."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.observers.input_range import InputRange

values = st.floats(-(2.0**100), 2.0**100, width=32)
samples = st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=9)


def observe(rows: list[list[float]]) -> tuple[float, float]:
    observed = InputRange()
    for row in rows:
        observed = observed.updated(torch.tensor(row).view(-1, 1))
    low, high = observed.bounds()
    assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
    return low.item(), high.item()


def mean(ends: list[float]) -> float:
    """The exact mean, rounded once to float32."""
    exact = sum(map(Fraction, ends)) / len(ends)
    return torch.tensor(float(exact), dtype=torch.float32).item()


@given(rows=samples)
def test_the_range_is_the_mean_of_minima_and_maxima(rows: list[list[float]]) -> None:
    expected = mean([min(row) for row in rows]), mean([max(row) for row in rows])
    assert observe(rows) == pytest.approx(expected, rel=2**-23)


@given(rows=samples, random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(rows: list[list[float]], random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert observe(shuffled) == observe(rows)


def test_is_not_the_global_range() -> None:
    assert observe([[-1.0, 1.0], [-3.0, 5.0]]) == (-2.0, 3.0)


@given(rows=samples, data=st.data())
def test_merged_observers_equal_one_observer(rows: list[list[float]], data: st.DataObject) -> None:
    whole, shares = InputRange(), [InputRange() for _ in range(data.draw(st.integers(1, 4)))]
    for row in rows:
        values, share = torch.tensor(row).view(-1, 1), data.draw(st.integers(0, len(shares) - 1))
        shares[share] = shares[share].updated(values)
        whole = whole.updated(values)
    merged = shares[0].merged(*shares[1:])
    assert merged.tokens == whole.tokens == sum(map(len, rows))
    assert merged.bounds() == whole.bounds()


def test_rows_of_any_shape_count_as_tokens() -> None:
    assert InputRange().tokens == 0
    assert InputRange().updated(torch.ones(2, 3, 8)).updated(torch.ones(5, 8)).tokens == 11


@given(rows=samples, data=st.data())
def test_a_non_finite_sample_gives_no_bounds(rows: list[list[float]], data: st.DataObject) -> None:
    """Also infinities of both signs, whose sum has no value, at any position."""
    wrong = st.sampled_from([math.nan, math.inf, -math.inf])
    places = st.tuples(st.integers(0, len(rows) - 1), st.integers(0, 1))
    spoiled = data.draw(st.dictionaries(places, wrong, min_size=1, max_size=4))
    observed = InputRange()
    for number, row in enumerate(rows):
        ends = [spoiled.get((number, 0), min(row)), spoiled.get((number, 1), max(row))]
        observed = observed.updated(torch.tensor(ends).view(-1, 1))
    assert_no_bounds(observed)


def test_infinities_of_both_signs_give_no_bounds() -> None:
    observed = InputRange()
    for ends in ([-math.inf, math.inf], [math.inf, -math.inf], [-1.0, 1.0]):
        observed = observed.updated(torch.tensor(ends).view(-1, 1))
    assert_no_bounds(observed)


def assert_no_bounds(observed: InputRange) -> None:
    low, high = observed.bounds()
    assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
    assert low.isnan() and high.isnan()
