"""W8A8 linears in the reference's arithmetic: its exports bit for bit, and its formulas row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.reference_linear import (
    fake_quantize_weight,
    input_parameters,
    quantize_reference_linear,
)
from tests.golden import ABSENT, cases, exported, float_weights, observed_ranges, quantized_linears

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
GOLDEN = [name for name, case in cases().items() if case["act_method"] == 1]


@ABSENT
@pytest.mark.parametrize("name", GOLDEN)
def test_tensors_equal_those_of_the_guides_tool_for_its_ranges(name: str) -> None:
    weights, ranges, expected = float_weights(cases()[name]["model"]), observed_ranges(name), exported(name)
    assert quantized_linears(name)
    for linear in quantized_linears(name):
        weight, bias = weights[f"{linear}.weight"], weights.get(f"{linear}.bias")
        low, high = ranges[f"{linear}.x_min"].view(1), ranges[f"{linear}.x_max"].view(1)
        made = quantize_reference_linear(
            weight, bias, low.to(weight.dtype), high.to(weight.dtype), weight.dtype, mm_tensor=False
        )
        for leaf, tensor in made.items():
            there = expected[f"{linear}.{leaf}"]
            assert tensor.dtype == there.dtype and tensor.shape == there.shape, f"{linear}.{leaf}"
            assert torch.equal(tensor, there), f"{linear}.{leaf}"


def random_linear(
    seed: int, dtype: torch.dtype, rows: int = 12, columns: int = 20
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * (torch.rand(rows, 1, generator=generator) + 0.05)
    low, high = (torch.rand(2, 1, generator=generator) * 20 - 10).sort(dim=0).values
    bias = torch.randn(rows, generator=generator)
    return weight.to(dtype), bias.to(dtype), low.to(dtype), high.to(dtype)


@pytest.mark.parametrize("mm_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_shapes(dtype: torch.dtype, mm_tensor: bool) -> None:
    made = quantize_reference_linear(*random_linear(0, dtype), dtype, mm_tensor=mm_tensor)
    of_weight = (1,) if mm_tensor else (12, 1)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in made.items()} == {
        "weight": (torch.int8, (12, 20)),
        "weight_scale": (dtype, of_weight),
        "weight_offset": (dtype, of_weight),
        "input_scale": (dtype, (1,)),
        "input_offset": (dtype, (1,)),
        "quant_bias": (torch.int32, (12,)),
        "deq_scale": (torch.float32 if dtype == torch.bfloat16 else torch.int64, (12,)),
    }
    assert not made["weight_offset"].any()


@pytest.mark.parametrize("mm_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32), biased=st.booleans())
def test_tensors_follow_the_formulas_of_the_reference(
    dtype: torch.dtype, mm_tensor: bool, seed: int, biased: bool
) -> None:
    weight, bias, low, high = random_linear(seed, dtype)
    made = quantize_reference_linear(weight, bias if biased else None, low, high, dtype, mm_tensor=mm_tensor)
    for row in range(12):
        largest = weight.abs().max() if mm_tensor else weight[row].abs().max()
        scale = made["weight_scale"].flatten()[0 if mm_tensor else row]
        assert scale == largest / 127
        assert torch.equal(made["weight"][row].to(dtype), (weight[row] / scale).round().clamp(-127, 127))
    assert made["input_scale"] == (high.clamp(min=0) - low.clamp(max=0)) / 255
    assert made["input_offset"] == (-low.clamp(max=0) / made["input_scale"]).round() - 128
    deq_scale = unpack_deq_scale(made["deq_scale"])
    products = (made["input_scale"] * made["weight_scale"].flatten()).float()
    assert torch.equal(deq_scale, products.expand(12))
    own = bias.double() if biased else torch.zeros(12).double()
    exact = own / deq_scale.double() - made["weight"].double().sum(1) * made["input_offset"].double()
    # Half a step, plus the float32 rounding of the quotient and the difference.
    assert ((made["quant_bias"] - exact).abs() <= 0.5 + exact.abs() * 2**-23 + own.abs() / deq_scale * 2**-23).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_weight_is_minus_127(dtype: torch.dtype) -> None:
    """Even if a quotient rounded to bfloat16 is lower."""
    weight = -torch.rand(500, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    end = torch.ones(1, dtype=dtype)
    made = quantize_reference_linear(weight, None, -end, end, dtype, mm_tensor=False)
    assert made["weight"].min() == -127


def test_a_deq_scale_that_underflows_in_float16_gives_the_smallest_int32() -> None:
    tiny = torch.full((1,), 1e-4, dtype=torch.float16)
    weight = torch.full((3, 2), 1e-4, dtype=torch.float16)
    weight[2] = 8.0
    for bias in (None, torch.tensor([0.5, -0.5, 0.5], dtype=torch.float16)):
        made = quantize_reference_linear(weight, bias, -tiny, tiny, torch.float16, mm_tensor=False)
        deq_scale = unpack_deq_scale(made["deq_scale"])
        assert deq_scale[:2].tolist() == [0, 0] and deq_scale[2] > 0
        assert made["quant_bias"][:2].tolist() == [-(2**31)] * 2
        assert made["quant_bias"][2] != -(2**31)


@pytest.mark.parametrize("bias", [1e9, -1e9])
def test_a_bias_beyond_int32_gives_the_smallest_int32(bias: float) -> None:
    end = torch.tensor([1e-3])
    made = quantize_reference_linear(
        torch.full((1, 4), 1e-3), torch.tensor([bias]), -end, end, torch.float32, mm_tensor=False
    )
    assert made["quant_bias"].item() == -(2**31)


@pytest.mark.parametrize("model_dtype", DTYPES)
def test_a_histogram_range_is_rounded_only_in_a_bfloat16_model(model_dtype: torch.dtype) -> None:
    low, high = torch.tensor([-1.2345678]), torch.tensor([3.4567891])
    scale, offset = input_parameters(low, high, model_dtype)
    kept = torch.bfloat16 if model_dtype == torch.bfloat16 else torch.float32
    assert scale.dtype == offset.dtype == kept and scale.shape == offset.shape == (1,)
    exact = (high - low) / 255
    assert torch.equal(scale, exact.to(kept))
    assert torch.equal(offset, (torch.round(-low / exact) - 128).to(kept))


@pytest.mark.parametrize("mm_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32))
def test_calibration_uses_the_exported_weight(dtype: torch.dtype, mm_tensor: bool, seed: int) -> None:
    """Except -128, which a quotient rounded to bfloat16 may reach: it is exported as -127."""
    weight, bias, low, high = random_linear(seed, dtype)
    made = quantize_reference_linear(weight, bias, low, high, dtype, mm_tensor=mm_tensor)
    found = fake_quantize_weight(weight, mm_tensor=mm_tensor)
    assert found.dtype == dtype
    levels = made["weight"].to(dtype)
    lowered = (levels == -127) & (found != levels * made["weight_scale"])
    assert torch.equal(found, torch.where(lowered, -128, levels) * made["weight_scale"])
    assert dtype == torch.bfloat16 or not lowered.any()


@pytest.mark.parametrize("mm_tensor", [False, True])
def test_results_do_not_depend_on_block_boundaries(mm_tensor: bool) -> None:
    weight, bias, low, high = random_linear(0, torch.float32, rows=5, columns=(1 << 17) - 1)
    weight = torch.cat([weight, weight[:1] * 0.1])
    bias = torch.cat([bias, bias[:1]])
    made = quantize_reference_linear(weight, bias, low, high, torch.float32, mm_tensor=mm_tensor)
    scale = weight.abs().amax(None if mm_tensor else 1, keepdim=not mm_tensor) / 127
    assert torch.equal(made["weight"].float(), (weight / scale).round())
    assert torch.equal(fake_quantize_weight(weight, mm_tensor=mm_tensor), (weight / scale).round() * scale)
