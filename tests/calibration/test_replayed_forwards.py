from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.replayed_forwards import ReplayedForwards
from fa3cli.errors import UnsupportedError
from fa3cli.models.memory_model import MemoryModel
from fa3cli.samples.dataset import Sample
from tests.sample_models import random_model, token_ids

LENGTHS = (9, 1, 23)
# Masks, layer kinds and parallel blocks differ between layers.
TYPES = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "gpt_neox": {"num_key_value_heads": 4},
}


def samples_of(*lengths: int) -> dict[str, Sample]:
    return {
        f"calibration.{number}": Sample(f"line {number}", {"input_ids": torch.tensor([ids])})
        for number, ids in enumerate(token_ids(*lengths))
    }


def replayed(forwards: ReplayedForwards, layers: list[nn.Module], count: int) -> list[list[Any]]:
    """The result of each layer for each sample, in the order in which they ran."""
    seen: list[list[Any]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda _, __, output, seen=seen[index]: seen.append(output))
        for index, layer in enumerate(layers)
    ]
    with torch.no_grad():
        for index in range(len(layers)):
            before = [len(outputs) for outputs in seen]
            for sample in range(count):
                forwards.advance(sample, index)
                forwards.stop(sample)
            # Earlier layers are replaced, and later ones are not reached.
            grown = [len(outputs) - earlier for outputs, earlier in zip(seen, before)]
            assert grown[index] == count and not any(grown[index + 1 :])
    for hook in hooks:
        hook.remove()
    return [outputs[-count:] if index == len(layers) - 1 else outputs[:count] for index, outputs in enumerate(seen)]


def states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("model_type", TYPES)
def test_states_equal_those_of_ordinary_forwards(tmp_path: Path, model_type: str) -> None:
    model = MemoryModel(random_model(model_type, **TYPES[model_type]))
    layers, samples = list(model.layers.values()), samples_of(*LENGTHS)
    wanted: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(states(output).clone()))
        for layer, kept in zip(layers, wanted)
    ]
    with torch.no_grad():
        for sample in samples.values():
            model.model(**sample.inputs(model.device))
    for hook in hooks:
        hook.remove()
    found = replayed(ReplayedForwards(model, samples, tmp_path), layers, len(samples))
    for expected, got in zip(wanted, found):
        assert all(torch.equal(states(one), other) for one, other in zip(got, expected))
    assert not any("forward" in vars(layer) for layer in layers)


def test_states_of_at_most_two_layers_are_kept(tmp_path: Path) -> None:
    model = MemoryModel(random_model("llama", num_hidden_layers=5))
    forwards, most = ReplayedForwards(model, samples_of(4, 6), tmp_path), 0
    with torch.no_grad():
        for index in range(5):
            for sample in range(2):
                forwards.advance(sample, index)
                layers = {file.name.split(".")[0] for file in tmp_path.iterdir()}
                assert layers <= {f"{number:05d}" for number in range(index - 2, index + 1)}
                most = max(most, len(list(tmp_path.iterdir())))
    assert most <= 4  # two layers of two samples


class Block(nn.Module):
    """Returns two tensors, or one."""

    def __init__(self, joins: bool) -> None:
        super().__init__()
        self.linear, self.joins = nn.Linear(4, 4), joins

    def forward(self, states: Tensor, text: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        states, text = self.linear(states), self.linear(text)
        return torch.cat([text, states], 1) if self.joins else (states, text)


class TwoStreams(nn.Module):
    """Blocks of both kinds, as in Flux; with `skips` the last one also gets the output of the first."""

    config = SimpleNamespace()
    dtype = torch.float32

    def __init__(self, skips: bool = False) -> None:
        super().__init__()
        self.first = nn.ModuleList(Block(joins=False) for _ in range(2))
        self.second = nn.ModuleList(Block(joins=True) for _ in range(2))
        self.skips = skips

    def forward(self, states: Tensor, text: Tensor) -> Tensor:
        early = None
        for block in self.first:
            states, text = block(states, text)
            early = states if early is None else early
        for block in self.second:
            states = block(states + early.mean() if self.skips else states, text)
            states, text = states[:, text.shape[1] :], states[:, : text.shape[1]]
        return states


class TwoStreamsModel(MemoryModel):
    def __init__(self, model: TwoStreams) -> None:
        super().__init__(model)
        self.layers = {
            f"{stack}.{index}": block
            for stack in ("first", "second")
            for index, block in enumerate(getattr(model, stack))
        }


def call(**arguments: Tensor) -> Any:
    return SimpleNamespace(inputs=lambda _: arguments)


def test_layers_may_return_different_types(tmp_path: Path) -> None:
    model = TwoStreamsModel(TwoStreams())
    inputs = {"states": torch.randn(1, 5, 4), "text": torch.randn(1, 3, 4)}
    layers, outputs = list(model.layers.values()), []
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in layers]
    with torch.no_grad():
        model.model(**inputs)
    for hook in hooks:
        hook.remove()
    found = replayed(ReplayedForwards(model, {"a": call(**inputs)}, tmp_path), layers, 1)
    for expected, [got] in zip(outputs, found):
        assert type(got) is type(expected)
        assert all(
            torch.equal(one, other)
            for one, other in zip(*(result if isinstance(result, tuple) else (result,) for result in (got, expected)))
        )


def test_a_layer_that_reuses_an_earlier_output_gets_nan(tmp_path: Path) -> None:
    model = TwoStreamsModel(TwoStreams(skips=True))
    sample = call(states=torch.randn(1, 5, 4), text=torch.randn(1, 3, 4))
    [*_, [last]] = replayed(ReplayedForwards(model, {"a": sample}, tmp_path), list(model.layers.values()), 1)
    assert last[:, 3:].isnan().all()


def test_an_output_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    model = MemoryModel(random_model("llama"))
    first = next(iter(model.layers.values()))
    hook = first.register_forward_hook(lambda _, __, output: (states(output), object()))
    with pytest.raises(UnsupportedError, match="LlamaDecoderLayer returns"):
        ReplayedForwards(model, samples_of(4), tmp_path).advance(0, 0)
    hook.remove()
