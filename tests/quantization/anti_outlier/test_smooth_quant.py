"""m1 and m4 against their formulas, channel by channel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale, migrated_scale
from tests.quantization.anti_outlier import group_of, random_group

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
RULES = [balanced_scale, migrated_scale]


def by_hand(group: GroupData, alpha: float, beta: float) -> list[float]:
    scales = []
    for channel in range(group.weights[0].shape[1]):
        inputs = [abs(value) for sample in group.inputs.samples for value in sample[:, channel].tolist()]
        weights = [abs(value) for weight in group.weights for value in weight[:, channel].tolist()]
        scales.append(max(max(inputs) ** alpha / max(*weights, 1e-5) ** beta, 1e-5))
    return scales


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32))
def test_m1_is_the_root_of_activation_over_weight(dtype: torch.dtype, seed: int) -> None:
    group = random_group(seed, dtype=dtype)
    found = balanced_scale(group)
    assert found.dtype == dtype
    close = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), torch.tensor(by_hand(group, 0.5, 0.5)).double(), rtol=close, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32))
def test_m4_moves_nine_tenths_of_the_activation(dtype: torch.dtype, seed: int) -> None:
    group = random_group(seed, dtype=dtype)
    found = migrated_scale(group)
    assert found.dtype == dtype
    close = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), torch.tensor(by_hand(group, 0.9, 0.1)).double(), rtol=close, atol=0)


@given(seed=st.integers(0, 2**32), heads=st.integers(1, 3), repeats=st.integers(2, 4), size=st.integers(1, 3))
def test_query_heads_that_share_a_value_head_get_their_mean_scale(
    seed: int, heads: int, repeats: int, size: int
) -> None:
    group = random_group(seed, rows=(6,), channels=heads * repeats * size, heads=heads, repeats=repeats)
    single, expected = by_hand(group, 0.9, 0.1), []
    for head in range(heads):
        starts = [(head * repeats + query) * size for query in range(repeats)]
        means = [sum(single[start + place] for start in starts) / repeats for place in range(size)]
        expected += means * repeats
    torch.testing.assert_close(migrated_scale(group), torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("place", range(3))
def test_the_largest_value_of_a_channel_counts_in_any_position(place: int) -> None:
    """Positive or negative, in the first or the last sample, in the first or the last linear."""
    for sign in (-1, 1):
        samples = [torch.ones(2, 1) for _ in range(3)]
        samples[place][1, 0] = 16 * sign
        weights = [torch.ones(2, 1) for _ in range(3)]
        weights[place][0, 0] = 4 * sign
        assert balanced_scale(group_of(samples, weights)).item() == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_dead_channel_gets_the_smallest_scale(rule: object, dtype: torch.dtype) -> None:
    group = group_of([torch.tensor([[0.0, 1.0]], dtype=dtype)], [torch.tensor([[1.0, 1.0]], dtype=dtype)])
    assert rule(group).tolist() == [torch.tensor(1e-5).to(dtype).item(), 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dead_weight_column_counts_as_the_smallest(dtype: torch.dtype) -> None:
    group = group_of([torch.ones(1, 2, dtype=dtype)], [torch.tensor([[0.0, 1.0]], dtype=dtype)])
    least = torch.tensor(1e-5).to(dtype)
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(balanced_scale(group), torch.stack([1 / least**0.5, least**0]), **close)
    torch.testing.assert_close(migrated_scale(group), torch.stack([1 / least**0.1, least**0]), **close)
