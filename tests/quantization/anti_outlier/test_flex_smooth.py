"""m6: two powers searched one after the other, against a loop over them in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.quantization.anti_outlier.flex_smooth import flexible_scale
from fa3cli.quantization.anti_outlier.group import GroupData
from tests.quantization.anti_outlier import group_of, random_group

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
POWERS = [0.05 * step for step in range(21)]


def error(values: np.ndarray, weight: np.ndarray, alpha: float, beta: float) -> float:
    scale = np.abs(values).max(0) ** alpha / np.abs(weight).max(0) ** beta
    smoothed = values / scale
    step = (smoothed.max() - smoothed.min()) / 255
    offset = np.round(-smoothed.min() / step) - 128
    smoothed = (np.round(smoothed / step + offset) - offset) * step
    rows = []
    for row in weight * scale:
        row_step = np.abs(row).max() / 127
        rows.append(np.clip(np.round(row / row_step), -127, 127) * row_step)
    exact = values @ weight.T
    return float(np.sqrt(((smoothed @ np.array(rows).T - exact) ** 2).mean() / (exact**2).mean()))


def scale_with(group: GroupData, alpha: float, beta: float) -> torch.Tensor:
    """Heads that share a source use their largest activation and their largest weight."""
    largest = torch.cat(group.inputs.samples).abs().amax(0), torch.cat(list(group.weights)).abs().amax(0)
    shape = (group.heads, group.repeats, -1)
    activations, weights = (
        magnitudes.double().view(shape).amax(1, keepdim=True).expand(*shape).flatten() for magnitudes in largest
    )
    return activations**alpha / weights**beta


def assert_none_better(group: GroupData) -> None:
    """Check that no alpha with beta = 1 - alpha, and then no beta, has a lower error."""
    found = flexible_scale(group).double()
    distances = {
        (alpha, beta): (scale_with(group, alpha, beta) / found - 1).abs().max().item()
        for alpha in POWERS
        for beta in POWERS
    }
    alpha, beta = min(distances, key=distances.get)
    assert distances[alpha, beta] < 1e-5
    # In float32 like the search: rounding of halves decides between powers with nearly the same error.
    values = torch.cat(group.inputs.samples).float().numpy()
    weight = torch.cat(list(group.weights)).float().numpy()
    least = min(error(values, weight, power, 1 - power) for power in POWERS)
    assert error(values, weight, alpha, 1 - alpha) <= least * 1.002
    assert error(values, weight, alpha, beta) <= min(error(values, weight, alpha, b) for b in POWERS) * 1.002


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.5, 1.5, 3.0])
def test_the_powers_are_those_with_the_least_error(seed: int, spread: float) -> None:
    assert_none_better(random_group(seed, spread=spread))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("heads", "repeats"), [(1, 2), (2, 3), (3, 2)])
def test_query_heads_that_share_a_value_head_have_one_scale(seed: int, heads: int, repeats: int) -> None:
    group = random_group(seed, rows=(6,), channels=heads * repeats * 2, heads=heads, repeats=repeats)
    assert_none_better(group)
    by_head = flexible_scale(group).view(heads, repeats, 2)
    assert torch.equal(by_head, by_head[:, :1].expand(heads, repeats, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 2])
def test_a_dead_weight_row_disables_smoothing(dtype: torch.dtype, heads: int) -> None:
    """Its error is NaN; the reference does the same."""
    group = random_group(1, rows=(6,), heads=heads, repeats=heads, dtype=dtype)
    assert not torch.equal(flexible_scale(group), torch.ones(8, dtype=dtype))
    group.weights[0][3] = 0
    found = flexible_scale(group)
    assert found.dtype == dtype and torch.equal(found, torch.ones(8, dtype=dtype))


def test_a_dead_weight_column_disables_smoothing() -> None:
    group = random_group(1)
    for weight in group.weights:
        weight[:, 2] = 0
    assert flexible_scale(group).tolist() == [1.0] * 8


def test_a_dead_activation_channel_leaves_alpha_at_zero() -> None:
    """Every other power divides zero by zero; beta is still searched."""
    group = random_group(1, dtype=torch.float64)
    samples = [sample * (torch.arange(8) != 2) for sample in group.inputs.samples]
    found = flexible_scale(group_of(samples, group.weights))
    values, weight = torch.cat(samples).numpy(), torch.cat(list(group.weights)).numpy()
    errors = [error(values, weight, 0, beta) for beta in POWERS]
    beta = POWERS[int(np.argmin(errors))]
    torch.testing.assert_close(found, torch.cat(list(group.weights)).abs().amax(0) ** -beta, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_the_scale_is_finite_and_positive(dtype: torch.dtype, seed: int) -> None:
    found = flexible_scale(random_group(seed, spread=2.0, dtype=dtype))
    assert found.dtype == dtype and found.isfinite().all() and (found > 0).all()


@pytest.mark.parametrize("seed", [2, 3, 8])
def test_inputs_without_zero_are_rounded_in_their_own_range(seed: int) -> None:
    """Without 0 in the range the steps are finer, and the search gives another result."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 2 ** torch.randn(8, generator=generator)
    values = (5 + torch.rand(20, 8, generator=generator)) * sizes
    assert_none_better(group_of([values], [torch.randn(6, 8, generator=generator)]))


def test_a_power_of_one_without_rounding_error_is_found() -> None:
    """First alpha: smoothed inputs are 0 and 1, weights integers up to 127; then beta, with both exchanged."""
    bits = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0]]).float()
    sizes = torch.tensor([127.0, 64.0, 9.0, 2.0, 1.0])
    signs = torch.tensor([[1, -1, 1, 1, -1], [-1, -1, 1, -1, 1]]).float()
    torch.testing.assert_close(flexible_scale(group_of([bits * sizes], [signs])), sizes)
    sizes = torch.tensor([255.0, 64.0, 9.0, 2.0, 1.0])
    torch.testing.assert_close(flexible_scale(group_of([bits], [signs * sizes])), 1 / sizes)
