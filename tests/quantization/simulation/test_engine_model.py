"""Only the modules that an export quantizes are replaced, and each gets its own tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.simulation.engine_model import simulate
from fa3cli.quantization.simulation.linears import SimulatedDynamicLinear, SimulatedLinear
from tests.quantization.simulation.loading import load


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
    held = model.state_dict()
    # deq_scale and quant_bias contain the weight's scale and the bias.
    unused = tuple(f".{leaf}" for leaf in ("weight_scale", "weight_offset", "bias"))
    assert set(held) == {name for name in tensors if not name.endswith(unused)} | kept
    assert all(tensors[name].shape == tensor.shape for name, tensor in held.items() if name in tensors)
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
        name: value.shape for name, value in tensors.items() if not name.endswith("weight_offset")
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


def test_a_mixed_linear_quantizes_its_input_per_token() -> None:
    """Of W8A8_MIX, engines use the stored input scale only on nodes that decode."""
    model, states = nn.Sequential(nn.Linear(8, 6)), torch.randn(3, 8)
    made = quantize_linear(model[0].weight.detach(), None, torch.tensor([-9.0]), torch.tensor([9.0]), torch.float32)
    tensors = {f"0.{leaf}": tensor for leaf, tensor in made.items()} | {"0.bias": model[0].bias.detach()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    exact = model(states).detach()
    simulate(model, shapes, torch.int64, values={"0.weight": "W8A8_MIX"})
    assert isinstance(model[0], SimulatedDynamicLinear)
    load(model, tensors)
    assert 0 < (model(states) - exact).norm() / exact.norm() < 0.02
