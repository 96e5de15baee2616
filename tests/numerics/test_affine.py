"""Tests int8 rounding: 0 is exact, every other value is within half a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.affine import (
    EPS,
    asymmetric_offset,
    asymmetric_scale,
    fake_quantize,
    quantize,
    symmetric_scale,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
bounds = st.floats(-60000, 60000, width=32)
ranges = st.tuples(bounds, bounds).map(sorted)


def between(low: float, high: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of a range, with both ends and the value nearest to 0."""
    ends = torch.tensor([low, high], dtype=dtype)
    return torch.cat([torch.linspace(low, high, 301).to(dtype), ends]).clamp(*ends)


def tolerance(scale: Tensor) -> float:
    """Half a step, plus the rounding of the dtype in three operations on numbers of up to 256 steps.

    A subnormal scale loses more: it is a multiple of the smallest number there is.
    """
    dtype = torch.finfo(scale.dtype)
    return scale.item() * (0.5 + 3 * 256 * dtype.eps) + 256 * dtype.tiny * dtype.eps


@pytest.mark.parametrize("dtype", DTYPES)
@given(ends=ranges)
def test_the_symmetric_error_is_at_most_half_a_step(dtype: torch.dtype, ends: list[float]) -> None:
    low, high = torch.tensor(ends, dtype=dtype).unbind()
    scale = symmetric_scale(low, high)
    assert scale.dtype == dtype and scale.shape == low.shape
    values = between(*ends, dtype)
    error = (fake_quantize(values, scale) - values).float().abs().max().item()
    assert error <= tolerance(scale)


@pytest.mark.parametrize("dtype", DTYPES)
@given(ends=ranges)
def test_the_asymmetric_error_is_at_most_half_a_step(dtype: torch.dtype, ends: list[float]) -> None:
    low, high = torch.tensor(ends, dtype=dtype).unbind()
    wide = max(ends[1], 0) - min(ends[0], 0)
    if dtype == torch.float16 and wide > 65504:
        return  # high - low overflows; ranges are kept in float32 (test below)
    scale = asymmetric_scale(low, high)
    offset = asymmetric_offset(low, scale)
    values = between(*ends, dtype)
    error = (fake_quantize(values, scale, offset) - values).float().abs().max().item()
    assert error <= tolerance(scale)


@pytest.mark.parametrize("dtype", DTYPES)
@given(ends=ranges)
def test_zero_is_exact(dtype: torch.dtype, ends: list[float]) -> None:
    low, high = torch.tensor(ends).unbind()
    scale = asymmetric_scale(low, high)
    offset = asymmetric_offset(low, scale)
    zero = torch.zeros(1, dtype=dtype)
    assert offset == offset.round()
    assert fake_quantize(zero, scale, offset).item() == 0
    assert fake_quantize(zero, symmetric_scale(low, high)).item() == 0


@given(ends=ranges)
def test_the_whole_int8_range_is_used(ends: list[float]) -> None:
    low, high = torch.tensor(ends).unbind()
    values = torch.tensor(ends)
    scale = symmetric_scale(low, high)
    if scale > EPS:
        assert quantize(values, scale).abs().max() == 127
    scale = asymmetric_scale(low, high)
    if scale > EPS:
        steps = quantize(torch.tensor([min(ends[0], 0), max(ends[1], 0)]), scale, asymmetric_offset(low, scale))
        assert (steps[1] - steps[0]).item() in (254, 255)  # 0 may shift the range by less than a step


@given(ends=ranges, outside=st.floats(-3e4, 3e4, width=32))
def test_values_outside_the_range_saturate(ends: list[float], outside: float) -> None:
    low, high = torch.tensor(ends).unbind()
    scale = asymmetric_scale(low, high)
    steps = quantize(torch.tensor([outside]), scale, asymmetric_offset(low, scale))
    assert -128 <= steps.item() <= 127 and steps == steps.round()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_zero_input_has_the_smallest_scale(dtype: torch.dtype) -> None:
    zero = torch.zeros(1, dtype=dtype)
    assert symmetric_scale(zero, zero).item() == asymmetric_scale(zero, zero).item() == EPS == 2**-23
    assert asymmetric_offset(zero, asymmetric_scale(zero, zero)).item() == -128


def test_a_constant_is_recovered() -> None:
    for constant in (3.7, -3.7, 1e-6, 50000.0):
        value = torch.tensor([constant])
        assert fake_quantize(value, symmetric_scale(value, value)).item() == pytest.approx(constant, abs=EPS / 2)
        scale = asymmetric_scale(value, value)  # widened to [0, constant]
        there = fake_quantize(value, scale, asymmetric_offset(value, scale))
        assert there.item() == pytest.approx(constant, abs=EPS / 2)


def test_quantize_rounds_half_to_even_after_adding_the_offset() -> None:
    values, scale = torch.tensor([0.5, 1.5, 2.5, -0.5]), torch.tensor(1.0)
    assert quantize(values, scale).tolist() == [0, 2, 2, 0]
    assert quantize(values, scale, torch.tensor(1.0)).tolist() == [2, 2, 4, 0]
    # -low / scale = 2.5
    assert asymmetric_offset(torch.tensor(-2.5), scale).item() == 2 - 128


def test_float16_values_with_a_float32_scale_are_divided_in_float32() -> None:
    values = torch.tensor([300.25, 1.0, -77.0], dtype=torch.float16)
    scale = torch.tensor([2.3675])
    expected = torch.tensor([round(value / 2.3675) for value in values.tolist()], dtype=torch.float16)
    found = quantize(values, scale)
    assert found.dtype == torch.float16
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("low", "high"), [(-65504.0, 65504.0), (-40000.0, 40000.0), (-65504.0, 1.0)])
def test_a_float16_range_wider_than_float16_has_a_finite_scale(low: float, high: float) -> None:
    """The reference subtracts in float16 and exports an infinite scale."""
    ends = torch.tensor([low]).half(), torch.tensor([high]).half()
    scale = asymmetric_scale(*ends)
    assert scale.dtype == torch.float16 and scale.isfinite().all()
    assert scale.item() == torch.tensor((high - low) / 255).half().item()
    wide = torch.tensor([low, 0.0, high]).half()
    error = (fake_quantize(wide, scale, asymmetric_offset(ends[0], scale)).float() - wide.float()).abs().max()
    assert error <= scale.item()


def test_an_infinite_range_stays_infinite() -> None:
    assert asymmetric_scale(torch.tensor([-torch.inf]), torch.tensor([1.0])).isinf().all()
