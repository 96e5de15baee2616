"""Tests m3: among twenty powers it finds the one with the least output error, against a loop over all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.quantization.anti_outlier.awq import searched_scale
from fa3cli.quantization.anti_outlier.group import GroupData
from tests.quantization.anti_outlier import group_of, random_group

RATIOS = [0.05 * step for step in range(20)]


def candidate(values: Tensor, ratio: float) -> Tensor:
    scale = (values.double().abs().mean(0) ** ratio).clamp(min=1e-4)
    return scale / (scale.max() * scale.min()) ** 0.5


def error(group: GroupData, scale: Tensor) -> float:
    """The output error in float64, row by row; the bias cancels."""
    values, total = group.inputs.samples[0].double(), 0.0
    for weight in group.weights:
        squares = []
        for row in weight.double():
            step = max((row * scale).abs().max().item() / 127, 2**-23)
            rounded = (row * scale / step).round().clamp(-128, 127) * step / scale
            squares.append((values @ (row - rounded)) ** 2)
        total += torch.stack(squares).mean().item()
    return total


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), biased=st.booleans(), spread=st.sampled_from([0.2, 1.0, 3.0]))
def test_no_power_has_a_lower_output_error(seed: int, biased: bool, spread: float) -> None:
    group = random_group(seed, biased=biased, spread=spread)
    candidates = [candidate(group.inputs.samples[0], ratio) for ratio in RATIOS]
    found = searched_scale(group)
    assert found.dtype == torch.float32
    assert min((found / candidate - 1).abs().max().item() for candidate in candidates) < 1e-5
    # Differences of float32 outputs: the errors are known to a few per mille.
    assert error(group, found.double()) <= 1.02 * min(error(group, candidate) for candidate in candidates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_power_without_rounding_error_is_found(ratio: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(16, 6, generator=generator) * torch.tensor([0.01, 0.1, 1.0, 2.0, 7.0, 50.0])
    values, expected = values.to(dtype), candidate(values, ratio)
    weights = [torch.randn(rows, 6, generator=generator).sign() / expected for rows in (5, 3)]
    found = searched_scale(group_of([values], [weight.to(dtype) for weight in weights]))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_the_first_of_equal_powers_is_chosen() -> None:
    """Zeros are rounded without error by every power; the first is 0 and smooths nothing."""
    values = torch.randn(4, 3) * torch.tensor([1.0, 10.0, 100.0])
    assert searched_scale(group_of([values], [torch.zeros(2, 3)])).tolist() == [1, 1, 1]


def test_only_the_first_sample_counts() -> None:
    group = random_group(3, spread=3.0)
    first = group_of(group.inputs.samples[:1], group.weights)
    assert torch.equal(searched_scale(group), searched_scale(first))


def test_every_linear_of_the_group_counts() -> None:
    """The best powers of two linears are opposite: the one with the larger error decides, in either position."""
    values = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1.0, 5.0, 60.0])
    signs = torch.tensor([[1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, 1.0]])
    plain, scaled = 1000 * signs / candidate(values, 0), signs / candidate(values, 0.95)
    plain, scaled = plain.float(), scaled.float()
    for weights in ([plain, scaled], [scaled, plain]):
        assert (searched_scale(group_of([values], weights)) - 1).abs().max() < 1e-6


def test_a_power_that_overflows_is_not_chosen() -> None:
    """For the last powers, the largest times the smallest scale exceeds float16: the outputs are NaN."""
    values = torch.tensor([[60000.0, 3.0], [60000.0, -3.0]], dtype=torch.float16)
    weights = torch.tensor([[1e-4, 0.7], [3e-4, -0.2]], dtype=torch.float16)
    found = searched_scale(group_of([values], [weights]))
    assert found.isfinite().all() and (found > 0).all()
    assert found[0] > found[1]


def test_errors_that_are_all_nan_disable_smoothing() -> None:
    values = torch.tensor([[float("nan"), 1.0]])
    assert searched_scale(group_of([values], [torch.ones(2, 2)])).tolist() == [1, 1]
