"""The simulated model is the float model within int8's error, and reads an export's tensors by their names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.simulation import (
    SimulatedDynamicLinear,
    SimulatedLinear,
    SimulatedNorm,
    simulate,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROWS, COLUMNS = 10, 24


def load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace a module's meta buffers by tensors, in the dtypes of the buffers."""
    held = module.state_dict()
    cast = {name: tensor.to(held[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(cast, assign=True)


def simulated(
    weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor
) -> tuple[SimulatedLinear, dict[str, Tensor]]:
    tensors = quantize_linear(weight, bias, low, high, weight.dtype)
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, device="meta")
    module = SimulatedLinear(linear, tensors["weight_scale"].shape, tensors["deq_scale"].dtype)
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
    module = SimulatedDynamicLinear(nn.Linear(COLUMNS, ROWS, bias=biased, device="meta"))
    load(module, tensors if bias is None else {**tensors, "bias": bias})
    scales = (states.float().abs().amax(-1, keepdim=True) / 127).clamp_min(2.0**-23)
    sums = (states.float() / scales).round().long() @ tensors["weight"].long().T
    expected = sums.double() * scales.double() * tensors["weight_scale"].double().T
    found = module(states)
    assert found.dtype == dtype and found.shape == (2, 5, ROWS)
    torch.testing.assert_close(found, (expected + (bias.double() if biased else 0)).to(dtype))


class Attention(nn.Module):
    """A module with a quantizer, like a patched attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.fa_quantizer = FAQuantizer()


def two_attentions() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList([Attention(), Attention(), Attention()])
    model.lm_head = nn.Linear(8, 16)
    return model


def export_of(model: nn.Module) -> dict[str, Tensor]:
    """q_proj of every layer, lm_head, and FA3 in the first two layers, each with a range of its own."""
    one = torch.tensor([1.0])
    tensors = {}
    for name in (*(f"layers.{index}.q_proj" for index in range(3)), "lm_head"):
        linear = model.get_submodule(name)
        made = quantize_linear(linear.weight.detach(), linear.bias.detach(), -one, one, torch.float32)
        tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in made.items()}
        tensors[f"{name}.bias"] = linear.bias.detach()
    for index, reach in ((0, 1.0), (1, 30.0)):
        for role, heads in (("q", 4), ("k", 2), ("v", 2)):
            high = reach * torch.arange(1.0, heads + 1)
            made = quantize_heads(role, -high, high, torch.float32)
            tensors |= {f"layers.{index}.{leaf}": tensor for leaf, tensor in made.items()}
    return tensors


def test_only_modules_that_the_export_quantizes_are_replaced() -> None:
    model = two_attentions()
    tensors = export_of(model)
    simulate(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, torch.int64)
    replaced = {name for name, module in model.named_modules() if isinstance(module, SimulatedLinear)}
    assert replaced == {"layers.0.q_proj", "layers.1.q_proj", "layers.2.q_proj", "lm_head"}
    kept = {f"layers.{index}.o_proj.{leaf}" for index in range(3) for leaf in ("weight", "bias")}
    assert set(model.state_dict()) == set(tensors) | kept
    assert all(model.state_dict()[name].shape == tensor.shape for name, tensor in tensors.items())
    assert model.layers[2].fa_quantizer.transform is None


@pytest.mark.parametrize("biased", [False, True])
def test_linears_without_deq_scale_are_dynamic(biased: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 6, bias=biased), nn.Linear(6, 4))
    made = quantize_dynamic_linear(model[0].weight.detach(), torch.float32)
    tensors = {f"0.{leaf}": tensor for leaf, tensor in made.items()}
    tensors |= {"0.bias": model[0].bias.detach()} if biased else {}
    tensors |= {"1.weight": model[1].weight.detach(), "1.bias": model[1].bias.detach()}
    states = torch.randn(3, 8)
    exact = model(states).detach()
    simulate(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, torch.float32)
    assert isinstance(model[0], SimulatedDynamicLinear) and type(model[1]) is nn.Linear
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in tensors.items()
    }
    load(model, tensors)
    error = (model(states) - exact).norm() / exact.norm()
    assert 0 < error < 0.05


def test_each_attention_uses_its_own_scales() -> None:
    model = two_attentions()
    tensors = export_of(model)
    simulate(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, torch.int64)
    load(model, {**{name: value for name, value in model.state_dict().items() if "o_proj" in name}, **tensors})
    for role, heads in (("q", 4), ("k", 2), ("v", 2)):
        states = torch.randn(2, heads, 3, 8)
        for index in (0, 1):
            found = model.layers[index].fa_quantizer.quant(states, role)
            for head in range(heads):
                scale = tensors[f"layers.{index}.fa_{role}.scale"][head].item()
                expected = (states[:, head] / scale).round().clamp(-128, 127) * scale
                torch.testing.assert_close(found[:, head], expected)
        assert model.layers[2].fa_quantizer.quant(states, role) is states


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_keep_their_dtype(dtype: torch.dtype) -> None:
    model = two_attentions()
    tensors = export_of(model)
    simulate(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, torch.int64)
    load(model, {**{name: value for name, value in model.state_dict().items() if "o_proj" in name}, **tensors})
    states = torch.randn(1, 4, 3, 8).clamp(-1, 1).to(dtype)
    found = model.layers[0].fa_quantizer.quant(states, "q")
    assert found.dtype == dtype
    scales = tensors["layers.0.fa_q.scale"].view(1, 4, 1, 1)
    assert (found.double() - states.double()).abs().le(scales / 2 + torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("own_bias", [True, False])
def test_a_stored_norm_adds_its_bias_once(own_bias: bool) -> None:
    norm = nn.LayerNorm(4, bias=own_bias)
    simulated = SimulatedNorm(norm)
    bias, states = torch.randn(4), torch.randn(2, 4)
    simulated.load_state_dict(
        {"weight": norm.weight, "bias": bias, "module.weight": norm.weight, "module.bias": bias}, assign=True
    )
    expected = nn.functional.layer_norm(states, (4,), norm.weight.detach()) + bias
    assert torch.allclose(simulated(states), expected, atol=1e-6)
