"""FA3's range: the union over samples of each sample's recall window, per head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.recall_window import recall_window
from fa3cli.observers.head_range import HeadRange


def observe(role: str, samples: list[Tensor]) -> tuple[Tensor, Tensor]:
    observed = HeadRange()
    for states in samples:
        observed = observed.updated(states, role)
    low, high = observed.bounds()
    assert low.dtype == high.dtype == torch.float32
    assert low.shape == high.shape == (samples[0].shape[1],)
    return low, high


@st.composite
def some_samples(draw: st.DrawFn) -> list[Tensor]:
    heads, dim = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    return [torch.randn(1, heads, length, dim, generator=generator).to(dtype) for length in lengths]


@pytest.mark.parametrize(("role", "ratio"), [("q", 0.9999), ("k", 0.9999), ("v", 1.0)])
@given(samples=some_samples())
def test_the_range_is_the_union_of_the_windows_of_samples(role: str, ratio: float, samples: list[Tensor]) -> None:
    low, high = observe(role, samples)
    windows = [recall_window(states, ratio) for states in samples]
    for head in range(len(low)):
        assert low[head] == min(window[0][head] for window in windows)
        assert high[head] == max(window[1][head] for window in windows)


@given(samples=some_samples(), random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(samples: list[Tensor], random) -> None:
    expected = observe("q", samples)
    random.shuffle(samples)
    assert all(torch.equal(*pair) for pair in zip(observe("q", samples), expected))


def test_only_v_keeps_outliers() -> None:
    states = torch.linspace(-1, 1, 20000).view(1, 1, -1, 1)
    states[0, 0, 0] = -50
    assert observe("v", [states])[0].item() == -50
    assert observe("q", [states])[0].item() > -1 and observe("k", [states])[0].item() > -1


def test_a_batch_counts_all_its_tokens() -> None:
    assert HeadRange().tokens == 0
    observed = HeadRange().updated(torch.ones(2, 4, 5, 8), "v").updated(torch.ones(1, 4, 3, 8), "v")
    assert observed.tokens == 13


@given(samples=some_samples(), split=st.integers(0, 5), role=st.sampled_from("qkv"))
def test_two_merged_observers_equal_one_observer(samples: list[Tensor], split: int, role: str) -> None:
    shares = [HeadRange(), HeadRange(), HeadRange()]
    for index, states in enumerate(samples):
        share = 1 + (index < split)
        shares[share] = shares[share].updated(states, role)
        shares[0] = shares[0].updated(states, role)
    merged = shares[1].merged(shares[2])
    assert merged.tokens == shares[0].tokens
    assert all(torch.equal(*pair) for pair in zip(merged.bounds(), shares[0].bounds()))


@pytest.mark.parametrize("role", ["q", "k", "v"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_value_is_kept(role: str, value: float) -> None:
    broken, sound = torch.ones(1, 2, 9000, 2), torch.ones(1, 2, 9000, 2)
    broken[0, 1, 4, 0] = value
    low, high = observe(role, [sound, broken, sound])
    assert low[0].isfinite() and high[0].isfinite()
    assert not (low[1].isfinite() and high[1].isfinite())


@given(samples=some_samples(), data=st.data())
def test_merged_ranks_equal_one_observer(samples: list[Tensor], data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 4))
    shares = [HeadRange() for _ in range(ranks)]
    for states in samples:
        rank = data.draw(st.integers(0, ranks - 1))
        shares[rank] = shares[rank].updated(states, "k")
    merged = shares[0].merged(*shares[1:])
    assert all(map(torch.equal, merged.bounds(), observe("k", samples)))
    assert merged.tokens == sum(states.shape[0] * states.shape[2] for states in samples)


def test_merged_observers_without_samples_have_no_tokens() -> None:
    assert HeadRange().merged(HeadRange(), HeadRange()).tokens == 0
