from __future__ import annotations

import gc
import weakref
from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn

from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.errors import UnsupportedError
from fa3cli.models.tree_file import tensors_of
from tests.sample_models import random_model, token_ids

LENGTHS = (9, 1, 23, 4)
MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2}
# What differs between layers of a type: masks, layer kinds, parallel blocks, embeddings.
TYPES = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "mixtral": MIXTURE,
    "phi": {},
    "gpt_neox": {"num_key_value_heads": 4},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
}


def layers_of(model: nn.Module) -> nn.ModuleList:
    return max(
        (module for module in model.modules() if isinstance(module, nn.ModuleList)),
        key=lambda module: sum(parameter.numel() for parameter in module.parameters()),
    )


def samples(*lengths: int) -> list[dict[str, Tensor]]:
    return [{"input_ids": torch.tensor([ids])} for ids in token_ids(*lengths)]


class Recorder:
    """Records the arguments and results of each layer, and the order of the layers."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.order: list[int] = []
        self.states: dict[int, list[Tensor]] = defaultdict(list)
        for index, layer in enumerate(layers):
            layer.register_forward_hook(self._keep(index))

    def _keep(self, index: int):
        def keep(_: nn.Module, args: tuple, output: object) -> None:
            self.order.append(index)
            states = output[0] if isinstance(output, tuple) else output
            self.states[index].append(states.clone())

        return keep


def run_to_end(forwards: LayerSynchronousForwards, layers: int, count: int) -> list[Tensor]:
    forwards.start()
    for index in range(layers):
        for sample in range(count):
            forwards.advance(sample, index)
    return [forwards.finish(sample).logits for sample in range(count)]


@pytest.mark.parametrize(
    ("model_type", "implementation"),
    [*((name, None) for name in TYPES), ("llama", "eager"), ("qwen2", "eager")],
)
def test_states_and_logits_equal_those_of_ordinary_forwards(model_type: str, implementation: str | None) -> None:
    model = random_model(model_type, **TYPES[model_type], attn_implementation=implementation)
    layers, inputs = layers_of(model), samples(*LENGTHS)
    recorder = Recorder(layers)
    with torch.no_grad():
        wanted = [model(**sample, use_cache=False).logits for sample in inputs]
    ordinary = dict(recorder.states)
    recorder.states.clear()
    recorder.order.clear()

    with LayerSynchronousForwards(model, layers, inputs) as forwards:
        found = run_to_end(forwards, len(layers), len(inputs))

    assert recorder.order == [index for index in range(len(layers)) for _ in inputs]
    for index in range(len(layers)):
        assert all(map(torch.equal, recorder.states[index], ordinary[index])), f"layer {index}"
    assert all(map(torch.equal, found, wanted))
    assert not torch.equal(*(logits[:, :1] for logits in wanted[:2]))  # the samples do differ


def test_one_sample_and_one_layer_are_supported() -> None:
    model = random_model("llama", num_hidden_layers=1)
    (inputs,) = samples(5)
    with torch.no_grad():
        wanted = model(**inputs).logits
    with LayerSynchronousForwards(model, layers_of(model), [inputs]) as forwards:
        assert torch.equal(run_to_end(forwards, 1, 1)[0], wanted)


def test_no_gradient_is_recorded_and_the_mode_of_the_caller_is_kept() -> None:
    model = random_model("llama")
    with LayerSynchronousForwards(model, layers_of(model), samples(5, 6)) as forwards:
        logits = run_to_end(forwards, 3, 2)
        assert torch.is_grad_enabled()
    assert not any(output.requires_grad for output in logits)
    assert torch.is_grad_enabled()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_stop_frees_the_states_a_forward_holds() -> None:
    model = random_model("llama")
    layers, states = layers_of(model), []
    layers[0].register_forward_hook(
        lambda _, __, output: states.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
    )
    before = hooks(model)
    with LayerSynchronousForwards(model, layers, samples(5, 6)) as forwards:
        forwards.start()
        forwards.advance(0, 0)
        forwards.advance(1, 0)
        forwards.stop(0)
        forwards.stop(0)  # a second call has no effect
        gc.collect()
        assert [state() is None for state in states] == [True, False]
    gc.collect()
    assert all(state() is None for state in states)
    assert hooks(model) == before


def test_a_stopped_forward_does_not_disturb_the_others() -> None:
    model = random_model("llama")
    inputs = samples(5, 6)
    with torch.no_grad():
        wanted = model(**inputs[1]).logits
    with LayerSynchronousForwards(model, layers_of(model), inputs) as forwards:
        forwards.start()
        for index in range(3):
            if index < 2:
                forwards.advance(0, index)
            if index == 1:
                forwards.stop(0)
            forwards.advance(1, index)
        assert torch.equal(forwards.finish(1).logits, wanted)


def test_leaving_before_the_start_leaves_no_hooks() -> None:
    model = random_model("llama")
    with LayerSynchronousForwards(model, layers_of(model), samples(5)):
        pass
    assert hooks(model) == 0


class Stack(nn.Module):
    """A model that visits its layers in a given order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, states: Tensor) -> Tensor:
        for index in self.order:
            states = self.layers[index](states)
        return states


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 0, 1, 2), "another Linear"),
        ((0, 1, 2, 0), "another Linear"),
        ((0, 1, 2, 2), "another Linear"),
        ((0, 2, 1), "another Linear"),
        ((0, 2), "another Linear"),
        ((0, 1), "its end"),
        ((1, 2), "another Linear"),
        ((), "its end"),
    ],
)
def test_a_model_with_another_order_of_layers_is_refused(order: tuple[int, ...], words: str) -> None:
    model = Stack(order)
    inputs = [{"states": torch.ones(1, 2)}] * 2
    with (
        pytest.raises(UnsupportedError, match=f"sample 1 reached {words}") as raised,
        LayerSynchronousForwards(model, model.layers, inputs) as forwards,
    ):
        forwards.start()
        for index in range(3):
            for sample in range(2):
                forwards.advance(sample, index)
        for sample in range(2):
            forwards.finish(sample)
    assert "streamed" in raised.value.hint
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [ArithmeticError("layer"), KeyboardInterrupt()])
def test_an_error_inside_a_layer_reaches_the_caller(error: BaseException) -> None:
    model = random_model("llama")
    layers = layers_of(model)

    def fail(*_: object) -> None:
        raise error

    handle = layers[1].mlp.register_forward_hook(fail)
    with (
        pytest.raises(type(error)) as raised,
        LayerSynchronousForwards(model, layers, samples(5, 6)) as forwards,
    ):
        run_to_end(forwards, 3, 2)
    assert raised.value is error
    handle.remove()
    assert hooks(model) == 0
    with torch.no_grad():
        assert model(**samples(5)[0]).logits.isfinite().all()  # the model still works


# ---- layers that are skipped


def outputs_after(model: nn.Module, inputs: list[dict[str, Tensor]], layer: int) -> list[object]:
    """The outputs of a layer for each sample, as a run stopped after that layer keeps them."""
    layers = layers_of(model)
    with LayerSynchronousForwards(model, layers, inputs) as forwards:
        forwards.start()
        for index in range(layer + 1):
            for sample in range(len(inputs)):
                forwards.advance(sample, index)
        return list(forwards.outputs)


@pytest.mark.parametrize("skipped", [1, 2, 3])
@pytest.mark.parametrize("model_type", TYPES)
def test_layers_after_skipped_layers_give_the_same_results(model_type: str, skipped: int) -> None:
    """Equal bit for bit, from the outputs of the last skipped layer only."""
    model = random_model(model_type, **TYPES[model_type])
    layers, inputs = layers_of(model), samples(*LENGTHS)
    with torch.no_grad():
        wanted = [model(**sample, use_cache=False).logits for sample in inputs]
    outputs = outputs_after(model, inputs, skipped - 1)
    recorder = Recorder(layers)
    with LayerSynchronousForwards(model, layers, inputs, skipped=skipped, outputs=outputs) as forwards:
        forwards.start()
        assert (forwards.arguments is None) == (skipped == len(layers))
        for index in range(skipped, len(layers)):
            for sample in range(len(inputs)):
                forwards.advance(sample, index)
        found = [forwards.finish(sample).logits for sample in range(len(inputs))]
    assert all(map(torch.equal, found, wanted))
    assert all(len(recorder.states[index]) == len(inputs) for index in range(len(layers)))
    with torch.no_grad():  # the layers are restored
        assert torch.equal(model(**inputs[0], use_cache=False).logits, wanted[0])


def test_the_first_arguments_equal_those_of_an_uninterrupted_run() -> None:
    model, inputs = random_model("llama"), [sample | {"use_cache": False} for sample in samples(5, 6)]
    layers = layers_of(model)

    def waiting(skipped: int, outputs: list[object]) -> list[Tensor]:
        with LayerSynchronousForwards(model, layers, inputs, skipped=skipped, outputs=outputs) as forwards:
            forwards.start()
            for index in range(skipped, 2):
                for sample in range(2):
                    forwards.advance(sample, index)
            return [tensor.clone() for tensor in tensors_of(forwards.arguments)]

    whole, resumed = waiting(0, []), waiting(2, outputs_after(model, inputs, 1))
    assert len(whole) > 1 and all(map(torch.equal, whole, resumed)) and len(whole) == len(resumed)


class Remembering(Stack):
    """A model whose last layer also gets the output of the first."""

    def forward(self, states: Tensor) -> Tensor:
        first = self.layers[0](states)
        return self.layers[2](self.layers[1](first) + first)


def test_a_model_that_reuses_an_earlier_output_gets_nan() -> None:
    """If only the first layer was skipped, nothing is missing."""
    model = Remembering(())
    inputs = [{"states": torch.ones(1, 2)}] * 2
    for skipped, finite in ((1, True), (2, False)):
        with LayerSynchronousForwards(model, model.layers, inputs) as forwards:
            forwards.start()
            for index in range(skipped):
                for sample in range(2):
                    forwards.advance(sample, index)
            outputs = list(forwards.outputs)
            before = [tensor.clone() for tensor in tensors_of(forwards.arguments)]
        with LayerSynchronousForwards(model, model.layers, inputs, skipped=skipped, outputs=outputs) as forwards:
            forwards.start()
            [(arguments, _)] = [forwards.arguments]
            assert bool(arguments[0].isfinite().all()) == finite
            assert torch.equal(arguments[0], before[0]) == finite
    assert hooks(model) == 0 and not any("forward" in vars(layer) for layer in model.layers)


def test_an_error_restores_the_skipped_layers() -> None:
    model, inputs = random_model("llama"), samples(5)
    layers = layers_of(model)
    outputs = outputs_after(model, inputs, 0)
    with (
        pytest.raises(ArithmeticError),
        LayerSynchronousForwards(model, layers, inputs, skipped=1, outputs=outputs),
    ):
        raise ArithmeticError
    assert not any("forward" in vars(layer) for layer in layers) and hooks(model) == 0
