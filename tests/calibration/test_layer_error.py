"""Tests a layer's error on the first sample against a calculation by hand, and how it depends on settings."""

from __future__ import annotations

import json
import logging
from collections import UserDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fa3cli import api
from fa3cli.calibration.layer_error import layer_error
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.models.memory_model import MemoryModel
from fa3cli.quantization.fake_linear import fake_dynamic_linear
from fa3cli.quantization.settings import QuantSettings, resolve_settings
from fa3cli.runs.job import make_job
from fa3cli.runs.passes import calibrate
from fa3cli.samples.recorded_call import RecordedCall
from tests.comparing.test_text import load_patched, simulate_by_hand
from tests.export_files import WEIGHT_FILE
from tests.sample_models import prepare, random_model, token_ids, write_lines, write_model

EXACT = QuantSettings()


class Layer(nn.Module):
    """Adds a linear's output and q, k, v to its states; stores the states in `shared`."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.fa_quantizer = nn.Linear(4, 4), FAQuantizer()
        self.calls, self.error = 0, error
        self.requires_grad_(False)

    def forward(self, states: Tensor, *, shared: Any = None) -> Tensor:
        self.calls += 1
        if self.error and self.calls > 1:
            raise self.error
        heads = states.view(1, -1, 2, 2).transpose(1, 2)
        seen = sum(self.fa_quantizer.quant(heads, qkv=role) for role in "qkv")
        output = states + self.linear(states) + seen.transpose(1, 2).reshape(states.shape)
        if shared is not None:
            shared["states"] = output, self.calls
        return output


def recorded(layer: Layer, states: Tensor, **named: Any) -> RecordedCall:
    with RecordedCall(layer) as call:
        layer(states, **named)
    return call


def states(seed: int = 1) -> Tensor:
    return torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(seed))


def found(values: Tensor, *, widened: float = 1.0, heads_widened: float = 1.0, fa: bool = True) -> LayerParameters:
    linear = tuple(end.view(1) * widened for end in values.aminmax())
    heads = values.view(-1, 2, 2).transpose(0, 1).flatten(1)
    roles = dict.fromkeys("qkv", (heads.amin(1) * heads_widened, heads.amax(1) * heads_widened))
    return LayerParameters("layer", {"linear": linear}, {"": roles} if fa else {})


def error(values: Tensor, parameters: LayerParameters, settings: QuantSettings = EXACT, **how: Any) -> float | None:
    layer = Layer()
    return layer_error(recorded(layer, values), layer.get_submodule, parameters, settings, **how)


def test_the_error_equals_a_calculation_by_hand() -> None:
    values, layer = states(), Layer()
    (low, high), weight = (end.item() for end in values.aminmax()), layer.linear.weight
    step = (high - low) / 255
    offset = round(-low / step) - 128
    inputs = (((values / step).round() + offset).clamp(-128, 127) - offset) * step
    steps = weight.abs().amax(1, keepdim=True) / 127
    noise = nn.functional.linear(inputs, (weight / steps).round() * steps) - nn.functional.linear(values, weight)
    for head in (slice(0, 2), slice(2, 4)):
        step = values[..., head].abs().max() / 127
        noise[..., head] += 3 * ((values[..., head] / step).round() * step - values[..., head])
    added = layer(values) - values
    assert error(values, found(values)) == pytest.approx((noise.norm() / added.norm()).item(), rel=1e-4)


@pytest.mark.parametrize("settings", [EXACT, replace(EXACT, numerics="reference"), replace(EXACT, mm_tensor=True)])
def test_wider_ranges_of_linears_or_heads_increase_the_error(settings: QuantSettings) -> None:
    values = states()
    usual = error(values, found(values), settings)
    assert 0 < usual < 0.05
    assert error(values, found(values, widened=20), settings) > 3 * usual
    assert error(values, found(values, heads_widened=20), settings) > 3 * usual
    assert error(values, found(values, fa=False), settings) < usual


def test_outliers_in_inputs_or_weights_increase_the_error() -> None:
    values = states()
    usual = error(values, found(values, fa=False))
    outlier = values.clone()
    outlier[0, 0, 0] = 300
    layer = Layer()
    layer.linear.weight[:, 0] = torch.tensor([0.0, 50.0, 50.0, 50.0])
    values[..., 0] = 1e-3  # the inputs of the outlier weights are tiny
    wide = layer_error(recorded(layer, values), layer.get_submodule, found(values, fa=False), EXACT)
    assert wide > 3 * usual
    # All tokens are rounded with the coarse scale of the outlier token.
    call, mask = recorded(Layer(), outlier), torch.ones(1, 6, dtype=torch.long)
    mask[0, 0] = 0
    assert layer_error(call, call.module.get_submodule, found(outlier, fa=False), EXACT, mask) > 3 * usual


def test_values_that_int8_represents_exactly_have_no_error() -> None:
    layer = Layer()
    layer.linear.weight.copy_(torch.tensor([[127.0, 1, -2, 3], [5, 127, 0, 1], [0, 0, 127, 9], [1, 2, 3, -127]]))
    values = torch.randint(-127, 128, (1, 6, 4)).float()
    values[0, 0] = torch.tensor([-128.0, 127, 127, -127])
    parameters = found(values, fa=False)
    assert layer_error(recorded(layer, values), layer.get_submodule, parameters, EXACT) < 1e-6
    assert layer_error(recorded(layer, values), layer.get_submodule, LayerParameters("layer"), EXACT) == 0


def test_padding_counts_only_in_reference_numerics() -> None:
    values, mask = states(), torch.tensor([[0, 0, 1, 1, 1, 1]])
    values[0, :2] *= 100
    parameters, reference = found(values[:, 2:]), replace(EXACT, numerics="reference")
    assert error(values, parameters, mask=mask) == pytest.approx(error(values[:, 2:], parameters), rel=1e-6)
    assert error(values, parameters, reference, mask=mask) == error(values, parameters, reference) > 0.5


@pytest.mark.parametrize("spoiled", [0.0, float("nan"), float("inf")])
def test_an_error_that_is_not_finite_is_none(spoiled: float) -> None:
    layer, parameters = Layer(), found(states())
    layer.linear.bias.zero_()
    assert layer_error(recorded(layer, states() * spoiled), layer.get_submodule, parameters, EXACT) is None
    with RecordedCall(layer) as call:
        pass
    assert layer_error(call, layer.get_submodule, parameters, EXACT) is None


def test_without_an_input_of_its_shape_only_the_output_counts() -> None:
    class Squeezed(Layer):
        def forward(self, states: Tensor) -> tuple[Tensor, None]:
            return super().forward(states)[0], None

    values, layer = states(), Squeezed()
    squeezed = layer_error(recorded(layer, values), layer.get_submodule, found(values), EXACT)
    output, added = Layer()(values), Layer()(values) - values
    expected = error(values, found(values)) * (added.norm() / output.norm()).item()
    assert squeezed == pytest.approx(expected, rel=1e-5)


def test_the_error_of_dynamic_linears_equals_a_calculation_by_hand() -> None:
    values, layer = states(), Layer()
    values[0, 0] *= 50  # other tokens have their own scales
    steps = values.abs().amax(-1, keepdim=True) / 127
    rows = layer.linear.weight.abs().amax(1, keepdim=True) / 127
    rounded = ((values / steps).round() * steps, (layer.linear.weight / rows).round() * rows)
    noise = nn.functional.linear(*rounded) - nn.functional.linear(values, layer.linear.weight)
    expected = (noise.norm() / (layer(values) - values).norm()).item()
    assert error(values, LayerParameters("layer", {"linear": None})) == pytest.approx(expected, rel=1e-4)


class Block(nn.Module):
    """Takes image and text and returns them in a given order, with further outputs."""

    def __init__(self, order: str, more: tuple[Any, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.linear, self.order, self.more = nn.Linear(4, 4), order, more
        self.requires_grad_(False)

    def forward(self, image: Tensor, text: Tensor, temb: Tensor | None = None) -> tuple[Any, ...]:
        found = {"image": image + self.linear(image), "text": text + 5 * self.linear(text)}
        return *(found[name] for name in self.order.split()), *self.more


def block_error(block: Block, image: Tensor, text: Tensor) -> float | None:
    with RecordedCall(block) as call:
        block(image=image, text=text, temb=torch.randn(1, 4))
    return layer_error(call, block.get_submodule, LayerParameters("block", {"linear": None}), EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["image text", "text image"])
def test_every_output_is_compared_with_the_argument_of_its_shape(order: str, dtype: torch.dtype) -> None:
    image, text = torch.randn(1, 7, 4).to(dtype), (3 * torch.randn(1, 2, 4)).to(dtype)
    block = Block(order).to(dtype)
    exact, noisy = block(image, text), []
    for values, factor in ((image, 1), (text, 5)):
        noisy.append(values + factor * fake_dynamic_linear(values, block.linear.weight, block.linear.bias))
    exact = dict(zip(order.split(), exact))
    noise, added = (
        torch.cat([(one - other).double().flatten() for one, other in pairs]).norm()
        for pairs in (
            ((noisy[0], exact["image"]), (noisy[1], exact["text"])),
            ((exact["image"], image), (exact["text"], text)),
        )
    )
    assert block_error(block, image, text) == pytest.approx((noise / added).item(), rel=1e-3)


def test_further_outputs_without_a_matching_argument_are_ignored() -> None:
    """Such as attention weights and caches of language models."""
    image, text = torch.randn(1, 7, 4), torch.randn(1, 2, 4)
    alone = block_error(Block("image"), image, text)
    assert block_error(Block("image", (torch.randn(1, 7, 7), None, [1])), image, text) == alone
    # The argument of that shape is the first output's.
    assert block_error(Block("image", (torch.randn(1, 7, 4),)), image, text) == alone
    assert block_error(Block("image text"), image, text) != alone


@pytest.mark.parametrize("numerics", ["improved", "reference"])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_measuring_the_error_changes_nothing(kind: type, numerics: str) -> None:
    """Later layers see only what the float layer stored, or the quantized layer of the run."""
    values, layer, shared = states(), Layer(), kind()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    call = recorded(layer, values, shared=shared)
    left, handed, random = shared["states"], values.clone(), torch.random.get_rng_state()
    settings = replace(EXACT, numerics=numerics)
    assert layer_error(call, layer.get_submodule, found(values), settings) > 0
    assert shared["states"] is left and list(shared) == ["states"] and torch.equal(values, handed)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert_left_alone(layer, before)


def assert_left_alone(layer: Layer, weights: dict[str, Tensor]) -> None:
    assert "forward" not in vars(layer.linear) and layer.fa_quantizer.transform is None
    assert all(torch.equal(tensor, weights[name]) for name, tensor in layer.state_dict().items())


def test_a_layer_that_fails_on_the_second_call_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    layer = Layer(KeyError("gone"))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        assert layer_error(recorded(layer, states()), layer.get_submodule, found(states()), EXACT) is None
    assert "layer: its error could not be measured (KeyError: 'gone')" in caplog.text
    assert_left_alone(layer, before)


def test_a_layer_that_overwrites_its_argument_does_not_affect_the_forward() -> None:
    class Overwriting(Layer):
        def forward(self, states: Tensor) -> Tensor:
            return states.add_(self.linear(states))

    values, layer = states(), Overwriting()
    call = recorded(layer, values)
    after = values.clone()
    layer_error(call, layer.get_submodule, found(values, fa=False), EXACT)
    assert torch.equal(values, after)


# ---- whole runs


def errors(folder: Path, lines: list[Any], **options: Any) -> list[float | None]:
    calib = write_lines(folder.parent / "lines.jsonl", lines)
    job = prepare(folder, calib=calib, **{"recipe": "none"} | options)
    return [layer.error for layer in calibrate(job)]


@torch.no_grad()
def errors_by_hand(folder: Path, output: Path, ids: list[int]) -> list[float]:
    """Call each layer with the arguments of the float model, once float and once as exported."""
    model, quantized, calls = load_patched(folder), load_patched(folder), []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    model(input_ids=torch.tensor([ids]), use_cache=False)
    simulate_by_hand(quantized, load_file(output / WEIGHT_FILE))
    found = []
    for layer, (positional, named, exact) in zip(quantized.model.layers, calls):
        exact, noisy = (
            output[0] if isinstance(output, tuple) else output for output in (exact, layer(*positional, **named))
        )
        before = positional[0] if positional else named["hidden_states"]
        found.append(((noisy - exact).norm() / (exact - before).norm()).item())
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fa": False},
        {"anti_method": "m4"},
        {"act_method": 3, "disable_level": "L2"},
        {"disable_names": ("*.mlp.*",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_the_error_equals_that_of_the_export(tmp_path: Path, model_type: str, options: dict[str, Any]) -> None:
    lines, folder = token_ids(17, 30, 9), write_model(tmp_path / f"{model_type}-{tmp_path.name}", model_type)
    calib, output = write_lines(tmp_path / "calib.jsonl", lines), tmp_path / "out"
    result = api.quantize(folder, calib=calib, output=output, recipe="none", **options)
    found = [layer.error for layer in result.layers]
    assert found == pytest.approx(errors_by_hand(folder, output, lines[0]), rel=2e-2)
    report = json.loads((output / REPORT_FILE).read_text())
    assert [layer["error"] for layer in report["result"]["layers"]] == found


@pytest.mark.parametrize("numerics", ["improved", "reference"])
def test_the_error_is_that_of_the_first_sample(llama: Path, numerics: str) -> None:
    first, second = token_ids(20, 9)
    alone = errors(llama, [first], numerics=numerics)
    assert errors(llama, [first] * 3, numerics=numerics) == pytest.approx(alone, rel=1e-4)
    assert errors(llama, [second, first], numerics=numerics) != pytest.approx(alone, rel=1e-2)
    assert all(0 < error < 0.3 for error in alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("numerics", ["improved", "reference"])
def test_half_precision_errors_are_similar_and_a_quantized_head_has_none(
    tmp_path: Path, dtype: torch.dtype, numerics: str
) -> None:
    folders = [
        write_model(tmp_path / f"{kind}-{tmp_path.name}", dtype=kind_of)
        for kind, kind_of in (("half", dtype), ("whole", torch.float32))
    ]
    half, whole = (errors(folder, token_ids(20, 9), numerics=numerics, disable_last_linear=False) for folder in folders)
    assert half[-1] is None and len(half) == 4
    assert half[:-1] == pytest.approx(whole[:-1], rel=0.25)


@pytest.mark.parametrize("numerics", ["improved", "reference"])
def test_a_model_in_memory_has_the_same_errors(tmp_path: Path, llama: Path, numerics: str) -> None:
    calib = write_lines(tmp_path / "lines.jsonl", token_ids(12, 9))
    streamed = prepare(llama, calib=calib, numerics=numerics, recipe="none")
    model = load_patched(llama)
    model.config._attn_implementation = streamed.model.config._attn_implementation
    resolved = resolve_settings({}, {"numerics": numerics}, "")
    job = make_job(MemoryModel(model), resolved, streamed.samples)
    found = [layer.error for layer in calibrate(job)]
    assert found == pytest.approx([layer.error for layer in calibrate(streamed)], rel=1e-3)


def test_measuring_keeps_the_export_of_layers_that_share_k_and_v(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later layer gets K and V of the float layer, not those of the quantized call."""
    layers = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
    sizes = {"num_hidden_layers": 4, "intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.0] * 4}
    inputs = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96, "laurel_rank": 4}
    try:
        random_model("gemma3n_text", **layers, **sizes, **inputs)
    except (ValueError, KeyError):
        pytest.skip("this transformers version has no gemma3n")
    folder = write_model(tmp_path / f"gemma-{tmp_path.name}", "gemma3n_text", **layers, **sizes, **inputs)
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(12, 9))
    measured = api.quantize(folder, calib=calib, output=tmp_path / "measured", recipe="none")
    assert all(0 < layer.error < 0.3 for layer in measured.layers)
    monkeypatch.setattr("fa3cli.runs.streams.calibration_stream.layer_error", lambda *_: None)
    api.quantize(folder, calib=calib, output=tmp_path / "not", recipe="none")
    one, other = ((tmp_path / name / WEIGHT_FILE).read_bytes() for name in ("measured", "not"))
    assert one == other


def test_layers_with_experts_as_linears_have_an_error(tmp_path: Path) -> None:
    options = {"num_local_experts": 4, "num_experts_per_tok": 1}
    names = [name for name, _ in random_model("mixtral", **options).named_modules()]
    if not any(name.endswith("experts.0.w1") for name in names):
        pytest.skip("this transformers version has no linears for experts")
    folder = write_model(tmp_path / f"mixtral-{tmp_path.name}", "mixtral", **options)
    found = errors(folder, token_ids(2, 40, 40), disable_names=("*.gate",))
    assert all(0 < error < 0.3 for error in found)
