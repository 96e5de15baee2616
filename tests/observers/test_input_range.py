"""act_method 1: the mean over samples of each sample's minimum and maximum, whatever their order."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.observers.input_range import InputRange

values = st.floats(-(2.0**100), 2.0**100, width=32)
samples = st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=9)


def observe(rows: list[list[float]]) -> tuple[float, float]:
    observed = InputRange()
    for row in rows:
        sample = torch.tensor([row])  # [tokens, in]
        observed.update(sample, torch.stack(sample.aminmax()))
    low, high = observed.bounds()
    assert low.shape == high.shape == (1,) and low.dtype == high.dtype == torch.float32
    return low.item(), high.item()


def mean(ends: list[float]) -> float:
    """The exact mean, rounded once to float32."""
    exact = sum(map(Fraction, ends)) / len(ends)
    return torch.tensor(float(exact), dtype=torch.float32).item()


@given(rows=samples)
def test_is_the_mean_of_minima_and_maxima(rows: list[list[float]]) -> None:
    expected = mean([min(row) for row in rows]), mean([max(row) for row in rows])
    assert observe(rows) == pytest.approx(expected, rel=2**-23)


@given(rows=samples, random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(rows: list[list[float]], random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert observe(shuffled) == observe(rows)


def test_is_not_the_global_range() -> None:
    assert observe([[-1.0, 1.0], [-3.0, 5.0]]) == (-2.0, 3.0)


@pytest.mark.parametrize("shape", [(7, 4), (1, 7, 4), (2, 7, 4)])
def test_counts_tokens(shape: tuple[int, ...]) -> None:
    observed, sample = InputRange(), torch.ones(shape)
    assert observed.tokens == 0
    for _ in range(3):
        observed.update(sample, torch.tensor([1.0, 1.0]))
    assert observed.tokens == 3 * sample.numel() // 4


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(place: int, value: float) -> None:
    bounds = torch.tensor([-1.0, 1.0])
    bounds[place] = value
    observed, sample = InputRange(), torch.ones(1, 2)
    for each in (torch.tensor([-1.0, 1.0]), bounds, torch.tensor([-1.0, 1.0])):
        observed.update(sample, each)
    ends: tuple[Tensor, Tensor] = observed.bounds()
    assert not ends[place].isfinite() and ends[1 - place].isfinite()
