"""W8A8 linears: the weights the guide's tool makes, and a product that is the float linear's within int8's error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.linear import linear_layout, quantize_linear
from fa3cli.quantization.reference_linear import quantize_reference_linear
from tests.golden import ABSENT, cases, exported, float_weights, observed_ranges, quantized_linears

FLOAT32 = [name for name, case in cases().items() if case["model"].endswith("float32")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def quantized_as(name: str, linear: str) -> dict[str, Tensor]:
    """Quantize a linear of a golden case with the ranges the tool observed."""
    weights, ranges = float_weights(cases()[name]["model"]), observed_ranges(name)
    low, high = ranges[f"{linear}.x_min"], ranges[f"{linear}.x_max"]
    bias = weights.get(f"{linear}.bias")
    return quantize_linear(weights[f"{linear}.weight"], bias, low, high, weights[f"{linear}.weight"].dtype)


@ABSENT
@pytest.mark.parametrize("name", FLOAT32)
def test_weights_are_those_of_the_guides_tool(name: str) -> None:
    assert quantized_linears(name)
    for linear in quantized_linears(name):
        found = quantized_as(name, linear)
        for leaf in ("weight", "weight_scale", "weight_offset"):
            expected = exported(name)[f"{linear}.{leaf}"]
            assert found[leaf].dtype == expected.dtype and found[leaf].shape == expected.shape
            differing = (found[leaf] != expected).any(dim=1).nonzero().flatten().tolist()
            assert not differing, f"rows {differing} of {linear}.{leaf}"


@ABSENT
@pytest.mark.parametrize("name", FLOAT32)
def test_input_parameters_are_those_of_the_guides_tool(name: str) -> None:
    for linear in quantized_linears(name):
        found = quantized_as(name, linear)
        for leaf in ("input_scale", "input_offset", "quant_bias", "deq_scale"):
            expected = exported(name)[f"{linear}.{leaf}"]
            assert found[leaf].dtype == expected.dtype
            # The tool divides the bias in float32; float64 here may round a half differently.
            most = 1 if leaf == "quant_bias" else 0
            assert (found[leaf] - expected).abs().max() <= most, f"{linear}.{leaf}"


@ABSENT
@pytest.mark.parametrize("name", [name for name in cases() if name not in FLOAT32])
def test_half_precision_cases_have_the_same_types(name: str) -> None:
    for linear in quantized_linears(name):
        for leaf, tensor in quantized_as(name, linear).items():
            expected = exported(name)[f"{linear}.{leaf}"]
            assert tensor.dtype == expected.dtype and tensor.shape == expected.shape, f"{linear}.{leaf}"


def random_linear(seed: int, dtype: torch.dtype, bias: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 20, generator=generator) * (torch.rand(12, 1, generator=generator) + 0.05)
    low, high = (torch.rand(2, 1, generator=generator) * 20 - 10).sort(dim=0).values
    added = torch.randn(12, generator=generator).to(dtype) if bias else None
    return weight.to(dtype), added, low, high


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32), bias=st.booleans())
def test_stored_tensors_are_consistent_with_the_stored_scales(dtype: torch.dtype, seed: int, bias: bool) -> None:
    weight, added, low, high = random_linear(seed, dtype, bias)
    made = quantize_linear(weight, added, low, high, dtype)
    # Stored tensors must be consistent: all others follow from the scales as they are stored.
    scale, rows = made["input_scale"].double(), made["weight_scale"].double()
    assert made["input_offset"].item() == min(round(max(-low.item(), 0) / scale.item()) - 128, 127)
    expected = (weight.double() / rows).round().clamp(-127, 127)
    assert (made["weight"] - expected).abs().max() <= 1  # half steps, divided in float32
    assert (made["weight"].double() * rows - weight.double()).abs().le(rows * 0.76).all()
    deq = unpack_deq_scale(made["deq_scale"]).double()
    torch.testing.assert_close(deq, scale * rows[:, 0], rtol=2**-23, atol=0)
    bias_steps = (torch.zeros(12) if added is None else added).double() / deq
    expected = bias_steps - made["weight"].double().sum(1) * made["input_offset"].double()
    assert (made["quant_bias"] - expected).abs().max() <= 0.5001


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_shapes(dtype: torch.dtype) -> None:
    weight, bias, low, high = random_linear(0, dtype, bias=True)
    made = quantize_linear(weight, bias, low, high, dtype)
    packed = torch.float32 if dtype == torch.bfloat16 else torch.int64
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in made.items()} == {
        "weight": (torch.int8, (12, 20)),
        "weight_scale": (dtype, (12, 1)),
        "weight_offset": (dtype, (12, 1)),
        "input_scale": (dtype, (1,)),
        "input_offset": (dtype, (1,)),
        "quant_bias": (torch.int32, (12,)),
        "deq_scale": (packed, (12,)),
    }
    assert not made["weight_offset"].any()
    assert made["weight"].min() >= -127


@settings(max_examples=8)
@given(rows=st.integers(1, 9), columns=st.sampled_from([3, 1 << 17, (1 << 18) + 1]))
def test_results_do_not_depend_on_block_boundaries(rows: int, columns: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    whole = quantize_linear(weight, None, low, high, torch.float32)
    for row in range(rows):
        alone = quantize_linear(weight[row : row + 1], None, low, high, torch.float32)
        for leaf in ("weight", "weight_scale", "quant_bias", "deq_scale"):
            assert torch.equal(whole[leaf][row], alone[leaf][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_and_zero_inputs_have_positive_scales(dtype: torch.dtype) -> None:
    zero, weight = torch.zeros(1), torch.zeros(2, 4, dtype=dtype)
    made = quantize_linear(weight, torch.zeros(2, dtype=dtype), zero, zero, dtype)
    assert not made["weight"].any() and not made["quant_bias"].any()
    assert (made["weight_scale"] > 0).all() and (made["input_scale"] > 0).all()
    assert (unpack_deq_scale(made["deq_scale"]) > 0).all()


# How far rounding a weight_scale to the model's dtype can bring a bias past 2**30 steps: float16's smallest
# scales, 2**-23 and up, are subnormal and lie 2**-24 apart.
COST = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-8, torch.float16: 0.25 + 2.0**-20}


signs = st.sampled_from([-1.0, 1.0])


@st.composite
def any_linear(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias and range of all sizes: zero and nearly zero rows, zero inputs, ranges without 0."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sizes = st.just(0.0) | st.integers(-45, 8).map(lambda power: 2.0**power)
    size = torch.tensor(draw(st.lists(sizes, min_size=rows, max_size=rows)))
    weight = torch.randn(rows, columns, generator=generator)
    if draw(st.booleans()):
        weight = weight.abs()  # the largest sums of a row
    biases = st.floats(-65504, 65504, width=16) | st.integers(-30, 15).map(lambda power: 2.0**power)
    bias = torch.tensor(draw(st.lists(biases, min_size=rows, max_size=rows)), dtype=torch.float32)
    ends = st.just(0.0) | st.builds(lambda power, sign: sign * 2.0**power, st.integers(-45, 12), signs)
    low, high = sorted((draw(ends), draw(ends)))
    return (weight * size[:, None]).to(dtype), bias.to(dtype), torch.tensor([low]), torch.tensor([high])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200)
@given(data=st.data())
def test_the_bias_can_be_recovered_from_the_stored_tensors(dtype: torch.dtype, data: st.DataObject) -> None:
    weight, bias, low, high = data.draw(any_linear(dtype))
    made = quantize_linear(weight, bias, low, high, dtype)
    deq = unpack_deq_scale(made["deq_scale"]).double()
    assert deq.isfinite().all() and (deq > 0).all()
    # In int64: a sum that had wrapped in int32 would be far from the bias.
    shift = made["weight"].long().sum(1) * made["input_offset"].long()
    steps = made["quant_bias"].long() + shift
    assert ((steps * deq - bias.double()).abs() <= 0.5 * deq * (1 + 2**-20)).all()
    # Both parts are far from the end of int32, also after a kernel adds a row of int8 products.
    assert (steps.abs() <= 2**30 * (1 + COST[dtype])).all()
    products = 128 * made["weight"].long().abs().sum(1)
    assert (made["quant_bias"].long().abs() + products <= 2**31 - 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_only_a_bias_that_is_too_large_changes_its_row(dtype: torch.dtype, data: st.DataObject) -> None:
    weight, bias, low, high = data.draw(any_linear(dtype))
    made = quantize_linear(weight, bias, low, high, dtype)
    bare = quantize_linear(weight, None, low, high, dtype)
    for leaf in ("input_scale", "input_offset", "weight_offset"):
        assert torch.equal(made[leaf], bare[leaf])
    scale, without = made["weight_scale"].double()[:, 0], bare["weight_scale"].double()[:, 0]
    needed = bias.double().abs() / made["input_scale"].double() / 2**30
    fits = needed <= without * (1 - COST[dtype])
    for leaf in ("weight", "weight_scale", "deq_scale"):
        assert torch.equal(made[leaf][fits], bare[leaf][fits])
    # A scale grows only until the bias fits, to keep the weights as precise as possible.
    assert (scale >= without).all() and (scale >= needed * (1 - COST[dtype])).all()
    grown = scale > without
    assert (scale[grown] <= needed[grown] * (1 + COST[dtype])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ends", [(0.0, 0.0), (-1.0, 2.0), (-1e-30, 1e-30)])
def test_a_row_of_zeros_gives_its_bias(dtype: torch.dtype, ends: tuple[float, float]) -> None:
    bias = torch.tensor([3.0, -1000.0, 0.0, 60000.0]).to(dtype)
    low, high = (torch.tensor([end]) for end in ends)
    made = quantize_linear(torch.zeros(4, 8, dtype=dtype), bias, low, high, dtype)
    assert not made["weight"].any()
    found = made["quant_bias"].double() * unpack_deq_scale(made["deq_scale"]).double()
    torch.testing.assert_close(found, bias.double(), rtol=2**-23, atol=0)


def test_a_transposed_weight_gives_the_same_result() -> None:
    weight, bias, low, high = random_linear(3, torch.float32, bias=True)
    there = quantize_linear(weight.T.contiguous().T, bias, low, high, torch.float32)
    here = quantize_linear(weight, bias, low, high, torch.float32)
    assert all(torch.equal(here[leaf], there[leaf]) for leaf in here)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("range_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), bias=st.booleans(), mm_tensor=st.booleans())
@settings(max_examples=8)
def test_the_layout_is_that_of_the_tensors(
    dtype: torch.dtype,
    range_dtype: torch.dtype,
    reference: bool,
    rows: int,
    columns: int,
    bias: bool,
    mm_tensor: bool,
) -> None:
    """Also the order, since offsets in files depend on it; the reference's histogram has float32 ranges in float16."""
    weight = torch.linspace(-1, 1, rows * columns).view(rows, columns).to(dtype)
    ends = [torch.tensor([end], dtype=range_dtype) for end in (-1.0, 2.0)]
    quantize = quantize_reference_linear if reference else quantize_linear
    made = quantize(weight, torch.ones(rows, dtype=dtype) if bias else None, *ends, dtype, mm_tensor=mm_tensor)
    input_dtype = range_dtype if reference and dtype != torch.bfloat16 else None
    layout = linear_layout(weight.shape, dtype, mm_tensor=mm_tensor, input_dtype=input_dtype)
    assert all(tensor.is_meta for tensor in layout.values())
    described = [[(name, tensor.dtype, tensor.shape) for name, tensor in all_.items()] for all_ in (made, layout)]
    assert described[0] == described[1]
