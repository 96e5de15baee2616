"""Tests that the recall window equals the one found by sorting all values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fa3cli.numerics import row_blocks
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


# As projections return them (tokens outermost), contiguous, with rows or columns skipped, transposed.
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
def test_the_window_is_the_narrowest_one_of_the_sorted_values(states: Tensor, ratio: float) -> None:
    assert found(states, ratio) == naive(states, ratio)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0.9999, 0.999])
def test_the_window_is_exact_for_states_of_realistic_size(layout: str, dtype: torch.dtype, ratio: float) -> None:
    values = torch.randn(2, 3, 257, 64, generator=torch.Generator().manual_seed(1)) ** 3
    states = LAYOUTS[layout](*values.shape).to(dtype).copy_(values)
    assert found(states, ratio) == naive(states, ratio)


def test_outliers_of_one_token_may_fill_both_ends() -> None:
    states = torch.zeros(1, 1, 500, 64)
    states[0, 0, 7, :5] = torch.tensor([9.0, -9.0, 8.0, -7.0, -6.0])
    # 4 of 32000 values are outside the window
    assert found(states, 0.9999) == naive(states, 0.9999) == [(-6.0, 0.0)]


def test_the_lowest_of_equally_narrow_windows_is_chosen() -> None:
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
def test_one_non_finite_value_gives_a_non_finite_bound(layout: str, value: float, ratio: float) -> None:
    states = LAYOUTS[layout](1, 2, 400, 64).normal_()
    states[0, 1, 3, 5] = value
    low, high = recall_window(states, ratio)
    assert low[0].isfinite() and high[0].isfinite()
    assert not (low[1].isfinite() and high[1].isfinite())


def by_sorting(states: Tensor, ratio: float) -> list[tuple[float, float]]:
    """Like `naive`, but fast enough for many values."""
    windows = []
    for head in range(states.shape[1]):
        values = states[:, head].double().flatten().sort().values
        held = max(int(ratio * len(values)), 1)
        best = (values[held - 1 :] - values[: len(values) - held + 1]).argmin()  # the first on a tie
        windows.append((values[best].item(), values[best + held - 1].item()))
    return windows


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def states_of_many_tokens(draw: st.DrawFn) -> Tensor:
    """So many tokens that values outside the window are searched in groups of tokens and of values."""
    shape = tuple(draw(st.integers(1, most)) for most in (3, 3, 1500, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(shape, generator=generator)
    values *= torch.rand(shape[:3], generator=generator).unsqueeze(3) ** draw(st.integers(0, 9))  # some tokens
    some = draw(st.sampled_from(["both signs", "no negative", "no positive", "few", "heads of one sign"]))
    if some == "few":
        values = (values * 2).round()
    elif some == "heads of one sign":
        values = values.abs() * (1 - 2 * (torch.arange(shape[1]) % 2)).view(1, -1, 1, 1)
    elif some != "both signs":
        values = values.abs() if some == "no negative" else -values.abs()
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    return layout(*shape).to(draw(st.sampled_from(DTYPES))).copy_(values)


@given(states=states_of_many_tokens(), left_out=st.integers(0, 20), block=st.sampled_from([1, 1000, 7777, 2**20]))
def test_the_window_is_exact_with_groups_and_blocks_of_any_size(states: Tensor, left_out: int, block: int) -> None:
    ratio = max(1 - left_out * states.shape[1] / states.numel(), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "_STATES", block)
        assert found(states, ratio) == by_sorting(states, ratio)


@pytest.mark.parametrize("layout", ["by token", "by head"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [0.9999, 1.0])
def test_the_window_is_exact_for_a_million_values_per_head(layout: str, dtype: torch.dtype, ratio: float) -> None:
    values = torch.randn(1, 2, 9001, 128, generator=torch.Generator().manual_seed(2))
    values[:, :, 17] *= 50  # a token of outliers
    states = LAYOUTS[layout](*values.shape).to(dtype).copy_(values)
    assert found(states, ratio) == by_sorting(states, ratio)


@pytest.mark.parametrize("layout", ["by token", "by head"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ratio", [1.0, 0.9999])
def test_one_non_finite_value_of_many_gives_a_non_finite_bound(
    layout: str, dtype: torch.dtype, value: float, ratio: float
) -> None:
    values = torch.randn(1, 2, 2000, 64, generator=torch.Generator().manual_seed(2))
    values[0, 1, 1234, 5] = value
    low, high = recall_window(LAYOUTS[layout](*values.shape).to(dtype).copy_(values), ratio)
    assert low[0].isfinite() and high[0].isfinite()
    assert not (low[1].isfinite() and high[1].isfinite())


@pytest.mark.parametrize("layout", ["by token", "by head"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_of_both_signs_give_infinite_bounds(layout: str, dtype: torch.dtype) -> None:
    values = torch.randn(1, 1, 2000, 64, generator=torch.Generator().manual_seed(2))
    values[..., 0], values[..., 1] = float("inf"), -float("inf")
    low, high = recall_window(LAYOUTS[layout](*values.shape).to(dtype).copy_(values), 0.9999)
    assert low.item() == -high.item() == -float("inf")


class Calls(TorchDispatchMode):
    """Records the name of each operation, its input values per row, and the memory of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, int] = {}
        self.largest: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if args and isinstance(args[0], Tensor):
            self.rows[name] = max(self.rows.get(name, 0), args[0].shape[-1] if args[0].dim() else 1)
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self.largest[storage.data_ptr()] = storage.nbytes()
        return results


@pytest.mark.parametrize("layout", ["by token", "by head"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_values_are_sorted_and_states_are_not_copied(layout: str, dtype: torch.dtype) -> None:
    states = LAYOUTS[layout](2, 2, 9001, 128).to(dtype).normal_(generator=torch.Generator().manual_seed(0))
    with Calls() as calls:
        recall_window(states, 0.9999)
    left_out = 1 + 2 * 9001 * 128 // 10_000
    assert calls.rows["topk"] <= 16 * (left_out + 1)
    assert not any(word in name for name in calls.rows for word in ("sort", "kthvalue", "unique", "median"))
    calls.largest.pop(states.untyped_storage().data_ptr())
    assert max(calls.largest.values()) <= 2 * 2**20  # a block of int16
