"""Simulated linears are the float linear within int8's error, and compute the same as int8 kernels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.simulation.linears import (
    SimulatedDynamicLinear,
    SimulatedLinear,
    SimulatedZeroPointLinear,
)
from tests.quantization.simulation.loading import load

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROWS, COLUMNS = 10, 24


def simulated(
    weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor
) -> tuple[SimulatedLinear, dict[str, Tensor]]:
    tensors = quantize_linear(weight, bias, low, high, weight.dtype)
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, device="meta")
    module = SimulatedLinear(linear, tensors["deq_scale"].dtype)
    load(module, tensors if bias is None else {**tensors, "bias": bias})
    return module, tensors


def error_bound(tensors: dict[str, Tensor], states: Tensor, weight: Tensor, expected: Tensor) -> Tensor:
    """The largest possible error of an output: half a step of each factor, plus the rounding of the scales.

    All in float64; `[tokens, in]`, `[out, in]`, `[tokens, out] -> [tokens, out]`.
    """
    eps = torch.finfo(tensors["weight_scale"].dtype).eps
    input_scale, rows = tensors["input_scale"].double(), tensors["weight_scale"].double().T  # [1], [1, out]
    input_error = input_scale * (0.5 + 128 * eps + (0 if eps < 1e-4 else 0.5)) * 1.001
    weight_error = rows * (0.5 + 64 * eps) * 1.001
    seen = states.abs() + input_error
    product = seen.sum(1, keepdim=True) * weight_error + input_error * weight.abs().sum(1)
    return product + input_scale * rows * 0.51 + (1e-6 + eps) * (expected.abs() + product)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32), biased=st.booleans(), side=st.sampled_from([-1, 0, 1]))
def test_the_product_equals_the_float_product_within_the_int8_error(
    dtype: torch.dtype, seed: int, biased: bool, side: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * (torch.rand(ROWS, 1, generator=generator) + 0.05)
    weight = weight.to(dtype)
    bias = torch.randn(ROWS, generator=generator).to(dtype) * 5 if biased else None
    states = (torch.randn(7, COLUMNS, generator=generator) * 3 + 6 * side).to(dtype)
    low, high = (bound.float().view(1) for bound in states.aminmax())
    module, tensors = simulated(weight, bias, low, high)

    found = module(states)
    assert found.dtype == dtype and found.shape == (7, ROWS)
    states, weight = states.double(), weight.double()
    expected = states @ weight.T + (0 if bias is None else bias.double())
    assert (found.double() - expected).abs().le(error_bound(tensors, states, weight, expected)).all()


def test_a_static_linear_computes_the_same_as_an_int8_kernel() -> None:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    bias, states = torch.arange(ROWS) / 10, torch.randn(2, 5, COLUMNS)
    module, tensors = simulated(weight, bias, torch.tensor([-1.0]), torch.tensor([2.0]))  # many values saturate
    steps = (states.double() / tensors["input_scale"].double() + tensors["input_offset"]).round()
    sums = steps.clamp(-128, 127).long() @ tensors["weight"].long().T + tensors["quant_bias"]
    expected = sums * (tensors["input_scale"] * tensors["weight_scale"][:, 0])
    torch.testing.assert_close(module(states), expected.float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_a_dynamic_linear_computes_the_same_as_int8_kernels(dtype: torch.dtype, biased: bool) -> None:
    """Like npu_dynamic_quant and npu_quant_matmul: int8 levels per token, summed as integers."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
    bias = torch.randn(ROWS, generator=generator).to(dtype) if biased else None
    states = torch.randn(2, 5, COLUMNS, generator=generator).to(dtype) * torch.tensor([0, 1, 9, 0.1, 70.0])[:, None].to(
        dtype
    )
    tensors = quantize_dynamic_linear(weight, dtype)
    module = SimulatedDynamicLinear(nn.Linear(COLUMNS, ROWS, bias=biased, device="meta"), (ROWS, 1))
    load(module, tensors if bias is None else {**tensors, "bias": bias})
    scales = (states.float().abs().amax(-1, keepdim=True) / 127).clamp_min(2.0**-23)
    sums = (states.float() / scales).round().long() @ tensors["weight"].long().T
    expected = sums.double() * scales.double() * tensors["weight_scale"].double().T
    found = module(states)
    assert found.dtype == dtype and found.shape == (2, 5, ROWS)
    torch.testing.assert_close(found, (expected + (bias.double() if biased else 0)).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scale_shape", [(ROWS, 1), (1,)])
def test_a_linear_with_a_zero_point_computes_the_same_as_an_int8_kernel(
    dtype: torch.dtype, biased: bool, scale_shape: tuple[int, ...]
) -> None:
    """Like vLLM's kernels: integer sums, from which the zero point times the row's sum is taken."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randint(-127, 128, (ROWS, COLUMNS), generator=generator, dtype=torch.int8)
    tensors = {
        "weight": weight,
        "weight_scale": torch.rand(scale_shape, generator=generator) / 100,
        "input_scale": torch.tensor([0.02]),
        "input_zero_point": torch.tensor([-30], dtype=torch.int8),
    }
    bias = torch.randn(ROWS, generator=generator).to(dtype)
    module = SimulatedZeroPointLinear(nn.Linear(COLUMNS, ROWS, bias=biased, device="meta"), scale_shape)
    load(module, {**tensors, "bias": bias} if biased else tensors)
    states = (torch.randn(2, 5, COLUMNS, generator=generator) * 3).to(dtype)  # some values saturate
    levels = (states.double() / tensors["input_scale"].double() - 30).round().clamp(-128, 127).long()
    assert levels.max() == 127
    sums = levels @ weight.long().T + 30 * weight.long().sum(1)
    expected = sums * tensors["input_scale"].double() * tensors["weight_scale"].flatten().double()
    found = module(states)
    assert found.dtype == dtype and found.shape == (2, 5, ROWS)
    # In float32 an output near 0 has the error of its larger terms; a wrong zero point would be off by 0.2.
    torch.testing.assert_close(found, (expected + (bias.double() if biased else 0)).to(dtype), rtol=0.016, atol=0.02)


def test_an_engine_that_multiplies_inputs_rounds_the_reciprocal() -> None:
    """vLLM-Ascend: levels are x * bfloat16(1 / input_scale), which differs from x / input_scale by up to 2^-9."""
    weight, states = torch.randn(ROWS, COLUMNS).bfloat16(), torch.linspace(-3, 3, 24 * 50).view(50, 24).bfloat16()
    tensors = quantize_linear(weight, None, torch.tensor([-3.0]), torch.tensor([3.0]), torch.bfloat16)
    linear = nn.Linear(COLUMNS, ROWS, bias=False, device="meta")
    module = SimulatedLinear(linear, tensors["deq_scale"].dtype, reciprocal=True)
    load(module, tensors)
    levels = states.float() * (1 / tensors["input_scale"]).float() + tensors["input_offset"].float()
    sums = levels.round().clamp(-128, 127).double() @ tensors["weight"].double().T + tensors["quant_bias"]
    torch.testing.assert_close(module(states), (sums * tensors["deq_scale"].double()).bfloat16())
    divided = SimulatedLinear(linear, tensors["deq_scale"].dtype)
    load(divided, tensors)
    assert not torch.equal(divided(states), module(states))
