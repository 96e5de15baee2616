"""Tests a float linear computed like its export: against dequantized products by hand, and the export's products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.numerics.affine import fake_quantize
from fa3cli.quantization import fake_linear as module
from fa3cli.quantization import linear as improved
from fa3cli.quantization import reference_linear
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.quantization.fake_linear import fake_dynamic_linear, fake_linear
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.reference_linear import fake_quantize_weight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def made(seed: int = 0, dtype: torch.dtype = torch.float32, rows: int = 12) -> list[Tensor]:
    """States, weight, bias and the states' range."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2, 5, 8, generator=generator).add(0.5).to(dtype)
    weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 8), (rows,)))
    return [states, weight, bias, *(end.view(1) for end in states.aminmax())]


def run(states: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor, **how: bool) -> Tensor:
    how = {"mm_tensor": False, "reference": False} | how
    parameters = (reference_linear if how["reference"] else improved).input_parameters
    return fake_linear(states, weight, bias, *parameters(low, high, weight.dtype), **how)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), with_bias=st.booleans(), mm_tensor=st.booleans(), reference=st.booleans())
def test_the_output_is_the_product_of_rounded_inputs_and_weights(
    seed: int, with_bias: bool, mm_tensor: bool, reference: bool
) -> None:
    states, weight, bias, low, high = made(seed)
    bias = bias if with_bias else None
    scale, offset = improved.input_parameters(low, high, torch.float32)
    rounded = fake_quantize_weight(weight, mm_tensor=mm_tensor)
    expected = linear(fake_quantize(states, scale, offset), rounded, bias)
    found = run(states, weight, bias, low, high, mm_tensor=mm_tensor, reference=reference)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - linear(states, weight, bias)).norm() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mm_tensor", [False, True])
def test_the_output_equals_that_of_the_export(dtype: torch.dtype, mm_tensor: bool) -> None:
    states, weight, bias, low, high = made(dtype=dtype)
    tensors = quantize_linear(weight, bias, low, high, dtype, mm_tensor=mm_tensor)
    scale, offset = tensors["input_scale"].double(), tensors["input_offset"].double()
    levels = torch.round(states.double() / scale + offset).clamp(-128, 127) - offset
    exact = linear(levels * scale, tensors["weight"].double() * tensors["weight_scale"].double(), bias.double())
    found = run(states, weight, bias, low, high, mm_tensor=mm_tensor)
    assert found.dtype == dtype
    float_error = (linear(states, weight, bias).double() - exact).norm() / exact.norm()
    error = (found.double() - exact).norm() / exact.norm()
    assert error < 2 * torch.finfo(dtype).eps
    assert dtype != torch.float32 or error < float_error / 100


@pytest.mark.parametrize("elements", [1, 24, 40])
@pytest.mark.parametrize("how", [{}, {"mm_tensor": True}, {"reference": True}])
def test_the_output_does_not_depend_on_blocks(
    monkeypatch: pytest.MonkeyPatch, elements: int, how: dict[str, bool]
) -> None:
    whole = run(*made(), **how)
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    torch.testing.assert_close(run(*made(), **how), whole, rtol=1e-6, atol=1e-6)


def test_integers_are_multiplied_exactly() -> None:
    weight = torch.tensor([[127.0, -3.0, 0.0], [1.0, 127.0, -127.0]])
    states = torch.tensor([[0.0, 255.0, 7.0]])
    found = run(states, weight, None, torch.tensor([0.0]), torch.tensor([255.0]))
    assert found.tolist() == linear(states, weight).tolist()


def test_long_sums_of_float16_stay_finite() -> None:
    states, weight = torch.ones(1, 4096).half(), torch.full((2, 4096), 0.01).half()
    found = run(states, weight, None, torch.tensor([0.0]).half(), torch.tensor([1.0]).half())
    assert found.float().tolist()[0] == pytest.approx([40.96] * 2, rel=1e-2)


def test_an_expert_without_tokens_gives_an_empty_output() -> None:
    states, *rest = made()
    assert run(states[:, :0], *rest).shape == (2, 0, 12)


def dynamic_by_hand(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The result of an engine for the export, in float64: one scale per token and one per output row."""
    made = quantize_dynamic_linear(weight, weight.dtype)
    values, rows = states.double(), made["weight"].double() * made["weight_scale"].double()
    scales = (values.abs().amax(-1, keepdim=True) / 127).clamp_min(2.0**-23)
    return linear((values / scales).round() * scales, rows, bias.double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dynamic_output_equals_that_of_the_export(dtype: torch.dtype) -> None:
    states, weight, bias, *_ = made(dtype=dtype)
    states[0, 0], states[0, 1] = 0, states[0, 1] * 100
    exact = dynamic_by_hand(states, weight, bias)
    found = fake_dynamic_linear(states, weight, bias)
    assert found.dtype == dtype and found[0, 0].tolist() == bias.tolist()
    error = (found.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 2 * torch.finfo(dtype).eps


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), factor=st.floats(0.01, 1000))
def test_tokens_of_a_dynamic_linear_are_independent(seed: int, factor: float) -> None:
    states, weight, *_ = made(seed)
    louder = states.clone()
    louder[:, 1:] *= factor
    found = fake_dynamic_linear(louder, weight, None)
    assert found[:, 0].tolist() == fake_dynamic_linear(states, weight, None)[:, 0].tolist()
    torch.testing.assert_close(found[:, 1:], fake_dynamic_linear(states, weight, None)[:, 1:] * factor)


def test_a_dynamic_expert_without_tokens_gives_an_empty_output() -> None:
    states, weight, bias, *_ = made()
    assert fake_dynamic_linear(states[:, :0], weight, bias).shape == (2, 0, 12)
