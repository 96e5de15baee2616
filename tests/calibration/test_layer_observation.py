from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.fa_quantizer import FAQuantizer


class Block(nn.Module):
    """Two linears that share an input, one behind them, and an attention module's quantizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(6, 4)
        self.fa = FAQuantizer()

    @torch.no_grad()
    def forward(self, values: Tensor, roles: str = "qkv") -> Tensor:
        hidden = self.gate(values) * self.up(values)
        states = hidden.view(1, -1, 2, 3).transpose(1, 2)
        for role in roles:
            assert self.fa.quant(states, qkv=role) is states
        return self.down(hidden)


@pytest.fixture
def block() -> Block:
    return Block()


def watch(block: Block, *, score: bool = False) -> LayerObservation:
    return LayerObservation(dict(block.named_children()), {"attention": block.fa}, score=score)


def samples(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 5 + each, 4, generator=generator) * (each + 1) for each in range(count)]


def test_a_shared_input_counts_for_each_linear(block: Block) -> None:
    values = samples()
    with watch(block) as observation:
        for each in values:
            block(each)
    for name in ("gate", "up"):
        low, high = observation.inputs[name].bounds()
        assert low.item() == pytest.approx(sum(each.min().item() for each in values) / 3)
        assert high.item() == pytest.approx(sum(each.max().item() for each in values) / 3)
        assert observation.inputs[name].tokens == 5 + 6 + 7
    assert not torch.equal(observation.inputs["down"].bounds()[1], observation.inputs["up"].bounds()[1])


def test_watching_changes_no_result_and_ends_with_the_block(block: Block) -> None:
    (value,) = samples(1)
    before = block(value)
    with watch(block) as observation:
        assert torch.equal(block(value), before)
    seen = observation.inputs["up"].tokens
    block(value)
    assert observation.inputs["up"].tokens == seen == 5
    assert block.fa.transform is None
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_watching_ends_after_an_error(block: Block) -> None:
    with pytest.raises(ArithmeticError), watch(block):
        raise ArithmeticError
    assert block.fa.transform is None
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_tensors_by_their_export_names(block: Block) -> None:
    with watch(block) as observation:
        block(samples(1)[0])
    assert observation.linear_tensors("gate", torch.float32)["weight"].dtype == torch.int8
    tensors = observation.attention_tensors(torch.float32)["attention"]
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
        f"fa_{role}.{leaf}": [2, 1] for role in "qkv" for leaf in ("scale", "offset")
    }


def test_scores_are_the_first_samples_and_only_on_demand(block: Block) -> None:
    usual = torch.randn(1, 2, 400, 3, generator=torch.Generator().manual_seed(1))
    stretched = usual.clone()
    stretched[0, 0, 0, 0] = 100.0
    found = {}
    for name, samples in {"a": [usual], "b": [usual, stretched], "c": [stretched, usual]}.items():
        with watch(block, score=True) as observation:
            for states, role in product(samples, "qkv"):
                block.fa.quant(states, qkv=role)
        found[name] = observation.scores["attention"]
    assert found["c"] < 0.1
    assert found["a"] == found["b"] > 0.5
    with watch(block) as observation:
        block.fa.quant(usual, qkv="q")
    assert observation.scores == {}


def test_an_input_without_tokens_says_nothing(block: Block) -> None:
    with watch(block) as observation:
        block.up(torch.empty(0, 4))
        block.up(torch.ones(2, 4))
    assert observation.inputs["up"].tokens == 2


def test_a_linear_that_saw_nothing_is_an_error(block: Block) -> None:
    with watch(block) as observation:
        block.up(torch.ones(2, 4))
    with pytest.raises(InvalidInputError, match="down: no calibration sample reached it") as raised:
        observation.linear_tensors("down", torch.float32)
    assert "--disable-names down" in raised.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_input_that_is_not_finite_is_named(block: Block, value: float) -> None:
    with watch(block) as observation:
        block.up(torch.tensor([[1.0, value, 2.0, 3.0]]))
        block.up(torch.ones(2, 4))
    with pytest.raises(InvalidInputError, match="the input of up is not finite"):
        observation.linear_tensors("up", torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("score", [False, True])
def test_states_that_are_not_finite_are_named(block: Block, value: float, score: bool) -> None:
    states = torch.randn(1, 2, 5, 3)
    spoiled = states.clone()
    spoiled[0, 1, 2, 0] = value
    with watch(block, score=score) as observation:
        for role in "qkv":
            block.fa.quant(spoiled if role == "k" else states, qkv=role)
            block.fa.quant(states, qkv=role)
    with pytest.raises(InvalidInputError, match="the k states of attention is not finite"):
        observation.attention_tensors(torch.float32)


def test_a_layer_whose_quantizers_are_never_called_is_refused(block: Block) -> None:
    with watch(block) as observation:
        block(samples(1)[0], roles="")
    with pytest.raises(UnsupportedError, match="attention: no q, k or v ever went through"):
        observation.attention_tensors(torch.float32)


def test_an_attention_seen_in_part_is_refused(block: Block) -> None:
    with watch(block) as observation:
        block(samples(1)[0], roles="qk")
    with pytest.raises(UnsupportedError, match="attention: its v states never went through"):
        observation.attention_tensors(torch.float32)
