"""Tests the fa_amp score against a slow implementation of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics import row_blocks
from fa3cli.numerics.fallback_score import fallback_score


def restated(states: Tensor) -> float:
    """The upper edge of the highest pair of neighbouring bins with over 0.2 % of |x|, divided by max |x|."""
    values = np.abs(states.double().numpy().ravel())
    low, high = values.min(), values.max()
    if low == high:
        return 1.0
    counts = np.bincount(np.minimum((values - low) / (high - low) * 100, 99).astype(int), minlength=100)
    for hi in range(100, 2, -1):
        if counts[hi - 2] + counts[hi - 1] > 0.002 * len(values):
            return (low + (high - low) * hi / 100) / high
    return 1.0


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 300),
    power=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 200.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_score_follows_its_definition(seed: int, tokens: int, power: int, scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = (torch.randn(1, 2, tokens, 16, generator=generator) ** power).clamp(-250, 250) * scale
    states = states.to(dtype)
    if dtype != torch.float32:  # coarse values lie on the edges of bins: move them
        states = states.float() * (1 + 1e-3 * torch.rand(states.shape, generator=generator))
    score = fallback_score(states)
    assert 0 < score <= 1
    assert score == pytest.approx(restated(states), rel=1e-5)


def all_at_once(states: Tensor) -> float:
    """The formula on all values in one tensor."""
    values = states.abs().float().flatten()
    low, high = (bound.item() for bound in values.aminmax())
    counts, edges = torch.histc(values, 100, low, high), torch.linspace(low, high, 101)
    for upper in range(100, 2, -1):
        if counts[upper - 2 : upper].sum().item() / values.numel() > 0.002:
            return edges[upper].item() / high if high > 0 else 1.0
    return 1.0


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 400), st.integers(1, 9)),
    power=st.integers(0, 9),
    block=st.integers(1, 4000),
    by_token=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_blocks_give_the_score_of_all_values_at_once(
    seed: int, shape: tuple[int, ...], power: int, block: int, by_token: bool, dtype: torch.dtype
) -> None:
    states = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) ** power).clamp(-9e3, 9e3)
    states = states.to(dtype)
    if by_token:
        states = states.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "_STATES", block)
        assert fallback_score(states) == all_at_once(states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_states_give_the_score_of_all_values_at_once(dtype: torch.dtype) -> None:
    states = torch.randn(1, 2, 9001, 128, generator=torch.Generator().manual_seed(3)) ** 5
    states = states.to(dtype)
    assert fallback_score(states) == all_at_once(states) < 0.2


def test_two_bins_must_contain_more_than_a_five_hundredth() -> None:
    body = torch.linspace(0, 1, 998)
    few = torch.cat([body, torch.tensor([10.0, 9.95])])  # 2 of 1000 in the top bin
    assert fallback_score(few.view(1, 1, -1, 1)) == pytest.approx(0.11)
    more = torch.cat([body[1:], torch.tensor([10.0, 9.95, 9.85])])  # 3 of 1000 in the top two
    assert fallback_score(more.view(1, 1, -1, 1)) == 1.0


def test_sign_and_layout_do_not_matter() -> None:
    states = torch.randn(1, 2, 200, 8, generator=torch.Generator().manual_seed(0)) ** 5
    assert fallback_score(-states) == fallback_score(states.transpose(2, 3)) == fallback_score(states)
    assert fallback_score(states) < 1


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_constant_states_have_a_score_of_1(constant: float, dtype: torch.dtype) -> None:
    assert fallback_score(torch.full((1, 2, 3, 4), constant, dtype=dtype)) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_states_have_no_score(value: float) -> None:
    states = torch.ones(1, 1, 4, 4)
    states[0, 0, 1, 1] = value
    assert math.isnan(fallback_score(states))
