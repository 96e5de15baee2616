from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration import layer_observation
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.numerics.affine import asymmetric_offset, asymmetric_scale, fake_quantize
from fa3cli.quantization.input_observers import input_observers
from fa3cli.quantization.reference_linear import fake_quantize_weight
from fa3cli.quantization.settings import QuantSettings


class Attention(nn.Module):
    """Only a quantizer, which gets three states."""

    def __init__(self) -> None:
        super().__init__()
        self.fa_quantizer = FAQuantizer()

    def forward(self, states: Tensor, roles: str = "qkv") -> Tensor:
        return sum(self.fa_quantizer.quant(states, qkv=role) for role in roles)


class Block(nn.Module):
    """Two linears that share an input, one after them, and an attention module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(6, 4)
        self.attention = Attention()

    @torch.no_grad()
    def forward(self, values: Tensor, roles: str = "qkv") -> Tensor:
        hidden = self.gate(values) * self.up(values)
        self.attention(hidden.view(1, -1, 2, 3).transpose(1, 2), roles)
        return self.down(hidden)


@pytest.fixture
def block() -> Block:
    return Block()


def watch(block: Block, linears: str = "gate up down", **settings: Any) -> LayerObservation:
    chosen = QuantSettings(**settings)
    names = linears.split()
    observers = input_observers(chosen, names, dict.fromkeys(names, 0.0))
    modules = {name: block.get_submodule(name) for name in names}
    return LayerObservation(observers, modules, {"attention": block.attention}, chosen)


def samples(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 5 + index, 4, generator=generator) * (index + 1) for index in range(count)]


def seen(block: Block, values: list[Tensor], **settings: Any) -> LayerParameters:
    with watch(block, **settings) as observation:
        for sample in values:
            observation.see(None)
            block(sample)
    return observation.parameters("block")


def test_a_shared_input_counts_for_each_linear(block: Block) -> None:
    values = samples()
    found = seen(block, values)
    for name in ("gate", "up"):
        low, high = found.linears[name]
        assert low.item() == pytest.approx(sum(sample.min().item() for sample in values) / 3)
        assert high.item() == pytest.approx(sum(sample.max().item() for sample in values) / 3)
    assert not torch.equal(found.linears["down"][1], found.linears["up"][1])


@pytest.mark.parametrize("act_method", [1, 2])
def test_watching_changes_no_result_and_ends_with_the_block(block: Block, act_method: int) -> None:
    (value,) = samples(1)
    before = block(value)
    with watch(block, act_method=act_method) as observation:
        assert torch.equal(block(value), before)
    tokens = observation.inputs.observers["up"].tokens
    block(value)
    assert observation.inputs.observers["up"].tokens == tokens == 5
    assert_left_alone(block)


def assert_left_alone(block: Block) -> None:
    assert block.attention.fa_quantizer.transform is None
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize("numerics", ["improved", "reference"])
def test_watching_ends_after_an_error(block: Block, numerics: str) -> None:
    weights = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    with pytest.raises(ArithmeticError), watch(block, numerics=numerics):
        raise ArithmeticError
    assert_left_alone(block)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize("act_method", [1, 2])
def test_linears_of_the_reference_run_quantized_in_the_current_range(block: Block, act_method: int) -> None:
    """Compares with a loop that quantizes by hand: weights once, each input in the range of all samples so far."""
    values, settings = samples(), QuantSettings(numerics="reference", act_method=act_method)
    linears = {name: block.get_submodule(name) for name in ("gate", "up", "down")}
    observers = input_observers(settings, list(linears), {})

    def by_hand(name: str, inputs: Tensor) -> Tensor:
        observers[name] = observers[name].updated(inputs)
        low, high = observers[name].bounds()
        scale = asymmetric_scale(low, high)
        inputs = fake_quantize(inputs, scale, asymmetric_offset(low, scale))
        weight = fake_quantize_weight(linears[name].weight.detach(), mm_tensor=False)
        return nn.functional.linear(inputs, weight, linears[name].bias)

    with torch.no_grad():
        expected = [by_hand("down", by_hand("gate", sample) * by_hand("up", sample)) for sample in values]
    with watch(block, numerics="reference", act_method=act_method) as observation:
        for sample, output in zip(values, expected):
            assert torch.equal(block(sample), output)
    found = observation.parameters("block").linears
    for name, observed in observers.items():
        assert all(torch.equal(*pair) for pair in zip(found[name], observed.bounds()))
    assert_left_alone(block)


def test_padding_is_not_counted(block: Block) -> None:
    """Uses integers, whose products are exact: kernels round rows of five and of eight tokens differently."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(16).round_()
    value = samples(1)[0].mul(16).round()
    padded = torch.cat([value, torch.full((1, 3, 4), 99.0)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    with watch(block, fa_amp=1) as observation:
        observation.see(mask)
        block(padded)
        observation.see(torch.zeros(1, 8, dtype=torch.bool))  # a sample of only padding
        block(padded)
    found, expected = observation.parameters("block"), seen(block, [value], fa_amp=1)
    assert found.scores == expected.scores
    for name, bounds in expected.linears.items():
        assert all(torch.equal(*pair) for pair in zip(found.linears[name], bounds))
    for role, bounds in expected.attentions["attention"].items():
        assert all(torch.equal(*pair) for pair in zip(found.attentions["attention"][role], bounds))


def test_ranges_by_role_and_head(block: Block) -> None:
    attentions = seen(block, samples(1)).attentions
    assert {role: [list(end.shape) for end in ends] for role, ends in attentions["attention"].items()} == {
        role: [[2], [2]] for role in "qkv"
    }


def test_scores_come_from_the_first_sample_and_only_on_request(block: Block) -> None:
    usual = torch.randn(1, 2, 400, 3, generator=torch.Generator().manual_seed(1))
    stretched = usual.clone()
    stretched[0, 0, 0, 0] = 100.0
    found = {}
    for name, states in {"a": [usual], "b": [usual, stretched], "c": [stretched, usual]}.items():
        with watch(block, "", fa_amp=1) as observation:
            for sample_states, role in product(states, "qkv"):
                block.attention.fa_quantizer.quant(sample_states, qkv=role)
        found[name] = observation.parameters("block").scores["attention"]
    assert found["c"] < 0.1
    assert found["a"] == found["b"] > 0.5
    assert seen(block, samples(1)).scores == {}


def test_an_input_without_tokens_is_ignored(block: Block) -> None:
    with watch(block) as observation:
        block.up(torch.empty(0, 4))
        block.up(torch.ones(2, 4))
    assert observation.inputs.observers["up"].tokens == 2


def test_a_linear_that_no_sample_ran_stays_float_with_a_warning() -> None:
    linears, settings = {name: nn.Linear(4, 4) for name in ("up", "down")}, QuantSettings()
    with LayerObservation(input_observers(settings, list(linears), {}), linears, {}, settings) as observation:
        linears["up"](torch.ones(2, 4))
    found = observation.parameters("block")
    assert list(found.linears) == ["up"] and found.unreached == ("down",)
    assert found.warnings == ("down: the samples did not run it, so it stays float",)


def test_a_fused_group_must_run_as_a_whole() -> None:
    linears = {f"mlp.{name}": nn.Linear(4, 4) for name in ("gate_proj", "up_proj")}
    settings = QuantSettings()
    observers = input_observers(settings, list(linears), {})
    with LayerObservation(observers, linears, {}, settings) as observation:
        linears["mlp.up_proj"](torch.ones(2, 4))
    with pytest.raises(InvalidInputError, match="gate_proj: no calibration sample reached it") as raised:
        observation.parameters("layer")
    assert "--disable-names mlp.gate_proj" in str(raised.value.hint)


def test_a_dynamic_linear_needs_no_samples() -> None:
    with LayerObservation({}, {"expert": nn.Linear(4, 4)}, {}, QuantSettings()) as observation:
        pass
    assert observation.parameters("layer").linears == {"expert": None}


def test_a_range_wider_than_float16_gives_a_warning(block: Block) -> None:
    half = nn.Linear(2, 2).half()
    settings = QuantSettings(numerics="reference")
    observers = input_observers(settings, ["half"], {})
    with torch.no_grad(), LayerObservation(observers, {"half": half}, {}, settings) as observation:
        assert half(torch.tensor([[-60000.0, 60000.0]], dtype=torch.float16)).isfinite().any()
    (warning,) = observation.parameters("block").warnings
    assert "the input of half" in warning and "float16" in warning


@pytest.mark.parametrize("numerics", ["improved", "reference"])
@pytest.mark.parametrize("act_method", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_input_is_named(block: Block, value: float, act_method: int, numerics: str) -> None:
    with watch(block, "up", act_method=act_method, numerics=numerics) as observation:
        block.up(torch.tensor([[1.0, value, 2.0, 3.0]]))
        block.up(torch.ones(2, 4))
    with pytest.raises(InvalidInputError, match="the input of up is not finite"):
        observation.parameters("block")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("fa_amp", [0, 1])
def test_non_finite_states_are_named(block: Block, value: float, fa_amp: int) -> None:
    states = torch.randn(1, 2, 5, 3)
    spoiled = states.clone()
    spoiled[0, 1, 2, 0] = value
    with watch(block, "", fa_amp=fa_amp) as observation:
        for role in "qkv":
            block.attention.fa_quantizer.quant(spoiled if role == "k" else states, qkv=role)
            block.attention.fa_quantizer.quant(states, qkv=role)
    with pytest.raises(InvalidInputError, match="the k states of attention is not finite"):
        observation.parameters("block")


def test_a_layer_whose_quantizers_are_never_called_is_refused(block: Block) -> None:
    with watch(block) as observation:
        block(samples(1)[0], roles="")
    with pytest.raises(UnsupportedError, match="attention: no q, k or v ever went through"):
        observation.parameters("block")


def test_a_partly_observed_attention_is_refused(block: Block) -> None:
    with watch(block) as observation:
        block(samples(1)[0], roles="qk")
    with pytest.raises(UnsupportedError, match="attention: its v states never went through"):
        observation.parameters("block")


def test_an_observation_that_cannot_begin_is_undone(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: linear.weight for name, linear in block.named_children() if name != "attention"}

    def run_out_of_memory(weight: Tensor, *, mm_tensor: bool) -> Tensor:
        if weight.shape == weights["down"].shape:  # the last one
            raise torch.OutOfMemoryError
        return fake_quantize_weight(weight, mm_tensor=mm_tensor)

    monkeypatch.setattr(layer_observation, "fake_quantize_weight", run_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), watch(block, numerics="reference"):
        pass
    assert all(block.get_submodule(name).weight is weight for name, weight in weights.items())
