"""The recall window without sorting is the one found by sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.recall_window import recall_window


def naive(states: Tensor, ratio: float) -> list[tuple[float, float]]:
    """Sort each head's values and try every window."""
    windows = []
    for head in range(states.shape[1]):
        values = sorted(states[:, head].double().flatten().tolist())
        held = max(int(ratio * len(values)), 1)
        starts = range(len(values) - held + 1)
        best = min(starts, key=lambda start: values[start + held - 1] - values[start])  # min takes the first
        windows.append((values[best], values[best + held - 1]))
    return windows


def found(states: Tensor, ratio: float) -> list[tuple[float, float]]:
    low, high = recall_window(states, ratio)
    assert low.dtype == high.dtype == torch.float32
    assert low.shape == high.shape == (states.shape[1],)
    return list(zip(low.tolist(), high.tolist()))


# As projections leave them (tokens outermost), contiguous, with rows or columns left out, transposed.
LAYOUTS = {
    "by token": lambda b, h, s, d: torch.empty(b, s, h, d).transpose(1, 2),
    "by head": lambda b, h, s, d: torch.empty(b, h, s, d),
    "every second": lambda b, h, s, d: torch.empty(b, h, 2 * s, d + 3)[:, :, ::2, 1 : d + 1],
    "transposed": lambda b, h, s, d: torch.empty(d, s, h, b).permute(3, 2, 1, 0),
}


@st.composite
def some_states(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.integers(1, most)) for most in (3, 4, 12, 6))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(shape, generator=generator) * draw(st.sampled_from([1e-3, 1.0, 300.0]))
    if draw(st.booleans()):
        values = values.round()  # many ties
    states = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](*shape).to(dtype)
    return states.copy_(values)


@given(states=some_states(), ratio=st.one_of(st.sampled_from([0.9999, 1.0, 0.0]), st.floats(0, 1)))
def test_is_the_narrowest_window_of_the_sorted_values(states: Tensor, ratio: float) -> None:
    assert found(states, ratio) == naive(states, ratio)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0.9999, 0.999])
def test_on_as_many_values_as_models_have(layout: str, dtype: torch.dtype, ratio: float) -> None:
    values = torch.randn(2, 3, 257, 64, generator=torch.Generator().manual_seed(1)) ** 3
    states = LAYOUTS[layout](*values.shape).to(dtype).copy_(values)
    assert found(states, ratio) == naive(states, ratio)


def test_outliers_of_one_token_may_fill_both_ends() -> None:
    states = torch.zeros(1, 1, 500, 64)
    states[0, 0, 7, :5] = torch.tensor([9.0, -9.0, 8.0, -7.0, -6.0])
    # 4 of 32000 values are left out of the window
    assert found(states, 0.9999) == naive(states, 0.9999) == [(-6.0, 0.0)]


def test_the_lowest_of_equally_narrow_windows() -> None:
    states = torch.tensor([5.0, 1.0, 2.0, 4.0]).view(1, 1, 4, 1)
    assert found(states, 0.5) == [(1.0, 2.0)]


def test_heads_of_a_batch_are_not_mixed() -> None:
    states = torch.arange(1.0, 4.0).view(1, 3, 1, 1) * torch.ones(4, 3, 50, 8)
    states[::2] *= -1
    assert found(states, 1.0) == [(-1.0, 1.0), (-2.0, 2.0), (-3.0, 3.0)]


@given(states=some_states(), seed=st.integers(0, 99))
def test_the_order_of_tokens_and_batch_does_not_matter(states: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens, batch = (torch.randperm(states.shape[axis], generator=generator) for axis in (2, 0))
    assert found(states[batch][:, :, tokens], 0.9) == found(states, 0.9)


@pytest.mark.parametrize("layout", ["by token", "by head"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ratio", [1.0, 0.9999, 0.5])
def test_one_value_that_is_not_finite_is_seen(layout: str, value: float, ratio: float) -> None:
    states = LAYOUTS[layout](1, 2, 400, 64).normal_()
    states[0, 1, 3, 5] = value
    low, high = recall_window(states, ratio)
    assert low[0].isfinite() and high[0].isfinite()
    assert not (low[1].isfinite() and high[1].isfinite())
