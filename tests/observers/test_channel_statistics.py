"""Each channel's extremes over all samples, and the first samples whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.observers.channel_statistics import ChannelStatistics

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random_samples(seed: int, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def seen(samples: list[Tensor], keep: int = 0) -> ChannelStatistics:
    statistics = ChannelStatistics(keep)
    for sample in samples:
        statistics = statistics.updated(sample)
    return statistics


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    seed=st.integers(0, 2**32),
    shapes=st.lists(st.sampled_from([(1, 3), (5, 3), (2, 4, 3), (1, 1, 3)]), min_size=1, max_size=5),
    keep=st.integers(0, 6),
)
def test_statistics_equal_those_of_a_loop_over_the_tokens(
    dtype: torch.dtype, seed: int, shapes: list[tuple[int, ...]], keep: int
) -> None:
    samples = [sample.to(dtype) for sample in random_samples(seed, shapes)]
    found = seen(samples, keep)
    tokens = [token for sample in samples for token in sample.reshape(-1, 3).tolist()]
    assert found.low.tolist() == [min(token[channel] for token in tokens) for channel in range(3)]
    assert found.high.tolist() == [max(token[channel] for token in tokens) for channel in range(3)]
    assert found.low.dtype == found.high.dtype == dtype
    assert found.tokens == len(tokens)
    assert len(found.samples) == min(keep, len(samples))
    for kept, sample in zip(found.samples, samples):
        assert torch.equal(kept, sample.reshape(-1, 3))


def test_an_update_does_not_change_the_old_value() -> None:
    first = ChannelStatistics(keep=2).updated(torch.ones(2, 3))
    first.updated(torch.full((4, 3), 5.0))
    assert first.tokens == 2 and first.high.tolist() == [1, 1, 1] and len(first.samples) == 1


def test_a_non_finite_value_is_kept() -> None:
    found = seen([torch.tensor([[1.0, float("nan")]]), torch.tensor([[float("inf"), 1.0]])])
    assert found.high[0].isinf() and found.high[1].isnan() and found.low[1].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_dtype_converts_all_tensors_and_nothing_else(dtype: torch.dtype) -> None:
    before = seen(random_samples(0, [(4, 3), (2, 3)]), keep=2)
    after = before.to(dtype)
    assert torch.equal(after.low, before.low.to(dtype)) and torch.equal(after.high, before.high.to(dtype))
    assert [torch.equal(a, b.to(dtype)) for a, b in zip(after.samples, before.samples)] == [True, True]
    assert (after.tokens, after.keep) == (before.tokens, before.keep) == (6, 2)
    assert before.low.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 7), ranks=st.integers(1, 4), keep=st.integers(0, 6))
def test_merged_ranks_equal_one_observer(dtype: torch.dtype, seed: int, count: int, ranks: int, keep: int) -> None:
    """The kept samples are in order too; ranks without samples add nothing."""
    samples = [sample.to(dtype) for sample in random_samples(seed, [(2 + index % 3, 3) for index in range(count)])]
    first, *others = (seen(samples[rank::ranks], keep) for rank in range(ranks))
    merged, whole = first.merged(*others), seen(samples, keep)
    assert (merged.tokens, merged.keep, len(merged.samples)) == (whole.tokens, keep, len(whole.samples))
    assert all(map(torch.equal, merged.samples, whole.samples))
    if samples:
        assert torch.equal(merged.low, whole.low) and torch.equal(merged.high, whole.high)
        assert merged.low.dtype == dtype
