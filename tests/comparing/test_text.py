from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fa3cli import api, patching
from fa3cli.comparing import text as evaluation
from fa3cli.comparing.text import compare
from fa3cli.errors import Fa3Error, InvalidInputError
from fa3cli.runs.progress import Progress
from tests.conftest import SHARED_MODELS, copy_model
from tests.export_files import WEIGHT_FILE
from tests.runs.reference import load
from tests.sample_models import edit_weights, token_ids, write_lines, write_model

EVAL = (12, 33, 2, 1, 20)  # one token predicts nothing


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "eval.jsonl", token_ids(*EVAL))


def export(folder: Path, tmp_path: Path, **options: Any) -> Path:
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(17, 30, 40))
    api.quantize(folder, calib=calib, output=tmp_path / "out", **options)
    return tmp_path / "out"


def simulate_by_hand(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Let a patched model compute with inputs, weights, q, k and v rounded to int8."""
    for name, module in model.named_modules():
        if f"{name}.input_scale" in tensors:
            scale, offset = (tensors[f"{name}.input_{part}"].float() for part in ("scale", "offset"))
            weight = tensors[f"{name}.weight"].float() * tensors[f"{name}.weight_scale"].float()
            module.weight.data = weight
            if module.bias is not None:  # in whole steps of the accumulator, as kernels add it
                rows = tensors[f"{name}.quant_bias"] + tensors[f"{name}.weight"].long().sum(1) * offset
                module.bias.data = (rows * scale * tensors[f"{name}.weight_scale"][:, 0]).to(module.bias.dtype)
            module.register_forward_pre_hook(
                lambda _, args, scale=scale, offset=offset: (
                    ((args[0] / scale + offset).round().clamp(-128, 127) - offset) * scale,
                )
            )
        elif f"{name}.weight" in tensors:  # smoothed by AntiOutlier, or as it was
            module.weight.data = tensors[f"{name}.weight"]
        if f"{name}.module.weight" in tensors:
            assert torch.equal(tensors[f"{name}.module.weight"], module.weight)
            assert not tensors[f"{name}.bias"].any() and not tensors[f"{name}.module.bias"].any()
        if f"{name}.fa_q.scale" in tensors:
            scales = {role: tensors[f"{name}.fa_{role}.scale"].float()[None, :, :, None] for role in "qkv"}
            module.fa_quantizer.transform = lambda states, role, scales=scales: (
                (states / scales[role]).round().clamp(-128, 127) * scales[role]
            )


@torch.no_grad()
def nll(model: nn.Module, samples: list[list[int]]) -> tuple[float, list[Tensor]]:
    total, outputs = 0.0, []
    for ids in samples:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        total -= logits[range(len(ids) - 1), ids[1:]].sum().item()
        outputs.append(logits)
    return total, outputs


def load_patched(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, torch_dtype="auto").eval()


@pytest.mark.parametrize("options", [{}, {"fa_amp": 1}, {"disable_names": ("*.mlp.*",)}])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_results_equal_those_of_whole_models(
    tmp_path: Path, text: Path, model_type: str, options: dict[str, Any]
) -> None:
    folder = write_model(tmp_path / f"{model_type}-{tmp_path.name}", model_type)
    output = export(folder, tmp_path, **options)
    found = compare(output, folder, text)
    samples = [ids for ids in token_ids(*EVAL) if len(ids) > 1]
    tokens = sum(len(ids) - 1 for ids in samples)
    assert (found.samples, found.samples_cut, found.tokens) == (4, 0, tokens)

    wanted, floats = nll(load(folder), samples)
    assert found.perplexity_float == pytest.approx(math.exp(wanted / tokens), rel=1e-5)
    model = load_patched(folder)
    simulate_by_hand(model, load_file(output / WEIGHT_FILE))
    wanted, quantized = nll(model, samples)
    assert found.perplexity_quantized == pytest.approx(math.exp(wanted / tokens), rel=1e-3)
    divergence = sum((p.exp() * (p - q)).sum().item() for p, q in zip(floats, quantized)) / tokens
    agreed = sum((p.argmax(-1) == q.argmax(-1)).sum().item() for p, q in zip(floats, quantized)) / tokens
    assert found.kl_divergence == pytest.approx(divergence, rel=0.05)
    assert found.top1_agreement == pytest.approx(agreed, abs=1.5 / tokens)
    assert found.kl_divergence > 0 and found.perplexity_quantized != found.perplexity_float


@pytest.mark.parametrize("scheme", ["none", "tensor", "attn_head"])
def test_an_export_for_vllm_is_computed_in_bfloat16(tmp_path: Path, text: Path, scheme: str) -> None:
    """vLLM serves a float32 model in bfloat16; its fp8 states have the error of e4m3."""
    folder = write_model(tmp_path / f"llama-{tmp_path.name}")
    output = export(folder, tmp_path, target="vllm", kv_cache_scheme=scheme, anti_method="none")
    found = compare(output, folder, text)
    tensors = load_file(output / "model.safetensors")
    model = load_patched(folder).bfloat16()
    for name, module in model.named_modules():
        if f"{name}.input_scale" in tensors:
            module.weight.data = (tensors[f"{name}.weight"] * tensors[f"{name}.weight_scale"]).bfloat16()
            scale, zero = tensors[f"{name}.input_scale"], tensors[f"{name}.input_zero_point"].float()
            module.register_forward_pre_hook(
                lambda _, args, scale=scale, zero=zero: (
                    (((args[0].float() / scale + zero).round().clamp(-128, 127) - zero) * scale).bfloat16(),
                )
            )
        if f"{name}.q_scale" in tensors:
            scales = {role: tensors[f"{name}.{role}_scale"].view(-1) for role in "qkv"}
            module.fa_quantizer.transform = lambda states, role, scales=scales: fp8(states, scales, role)
    samples = [ids for ids in token_ids(*EVAL) if len(ids) > 1]
    _, floats = nll(load(folder).bfloat16(), samples)
    _, quantized = nll(model, samples)
    tokens = sum(map(len, floats))
    divergence = sum((p.exp() * (p - q)).sum().item() for p, q in zip(floats, quantized)) / tokens
    assert (scheme == "none") == (not any(name.endswith("q_scale") for name in tensors))
    assert found.kl_divergence == pytest.approx(divergence, rel=0.15)


def fp8(states: Tensor, scales: dict[str, Tensor], role: str) -> Tensor:
    scale = scales[role]
    if role == "q" and len(scale) > 1:
        scale = scale.view(len(scales["k"]), -1).amax(1)
    scale = scale.repeat_interleave(states.shape[1] // len(scale)).view(-1, 1, 1)
    return ((states / scale).to(torch.float8_e4m3fn).float() * scale).to(states.dtype)


def test_c8_changes_only_what_is_decoded(tmp_path: Path, text: Path) -> None:
    """The first half of a line is a prompt, which vLLM-Ascend computes with float K and V."""
    folder = write_model(tmp_path / f"llama-{tmp_path.name}")
    options = {"target": "vllm-ascend", "disable_names": ("*_proj",), "anti_method": "none"}
    output = export(folder, tmp_path, **options)
    decoded = compare(output, folder, text)
    assert decoded.kl_divergence > 0
    # A prompt of n tokens and no more: lines of one token more have one decoded token, which predicts nothing.
    short = write_lines(tmp_path / "short.jsonl", token_ids(2, 2))
    assert compare(output, folder, short).kl_divergence == 0


def test_an_export_without_quantized_modules_has_no_difference(llama: Path, text: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path, disable_names=("*_proj", "*.self_attn"), anti_method="none")
    found = compare(output, llama, text)
    assert (found.kl_divergence, found.top1_agreement) == (0.0, 1.0)
    assert found.layer_errors == (0.0, 0.0, 0.0)
    assert found.perplexity_quantized == found.perplexity_float


@torch.no_grad()
def states_after_layers(model: nn.Module, samples: list[list[int]]) -> list[Tensor]:
    """The outputs of each layer on all samples, concatenated."""
    found: list[list[Tensor]] = [[] for _ in model.model.layers]
    for layer, outputs in zip(model.model.layers, found):
        layer.register_forward_hook(
            lambda _, __, output, outputs=outputs: outputs.append(
                (output[0] if isinstance(output, tuple) else output).flatten()
            )
        )
    for ids in samples:
        model(input_ids=torch.tensor([ids]))
    return [torch.cat(outputs).double() for outputs in found]


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_layer_errors_accumulate_as_in_a_whole_model(tmp_path: Path, text: Path, model_type: str) -> None:
    folder = write_model(tmp_path / f"{model_type}-{tmp_path.name}", model_type)
    output = export(folder, tmp_path, recipe="none")
    samples = [ids for ids in token_ids(*EVAL) if len(ids) > 1]
    exact, quantized = states_after_layers(load(folder), samples), load_patched(folder)
    simulate_by_hand(quantized, load_file(output / WEIGHT_FILE))
    pairs = zip(states_after_layers(quantized, samples), exact)
    expected = [((found - wanted).norm() / wanted.norm()).item() for found, wanted in pairs]
    found = compare(output, folder, text).layer_errors
    assert found == pytest.approx(expected, rel=0.02) and len(found) == 3
    assert all(0 < error < 0.5 for error in found)


def test_float_layers_before_a_quantized_layer_have_no_error(llama: Path, text: Path, tmp_path: Path) -> None:
    layers = ("model.layers.0.*", "model.layers.1.*")
    output = export(llama, tmp_path, recipe="none", disable_names=layers)
    first, second, third = compare(output, llama, text).layer_errors
    assert first == second == 0 < third


def test_states_with_nan_have_an_infinite_error() -> None:
    one = torch.ones(1, 2, 3)
    for expected, found, error in (
        (one, one, 0.0),
        (one * 0, one * 0, 0.0),
        (one * 0, one, math.inf),
        (one, (one * math.nan, None), math.inf),
        ((one.half(), None), one * 3, 2.0),
    ):
        totals = evaluation._StateTotals()
        totals.add(expected, found)
        assert totals.error() == error


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_models_with_tied_heads_are_compared(tmp_path: Path, text: Path, dtype: str) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", dtype=getattr(torch, dtype), tie_word_embeddings=True)
    found = compare(export(folder, tmp_path), folder, text)
    assert 0 < found.kl_divergence < 0.5


def test_an_export_without_fa3_is_compared_with_an_unpatched_folder(tmp_path: Path, text: Path) -> None:
    folder = write_model(tmp_path / "plain", patched=False)
    assert compare(export(folder, tmp_path, fa=False), folder, text).kl_divergence > 0


def test_an_fa3_export_needs_the_patched_folder(llama: Path, text: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path)
    patching.undo(llama)
    with pytest.raises(InvalidInputError, match="not patched"):
        compare(output, llama, text)


def test_parts_and_one_file_give_the_same_results(llama: Path, text: Path, tmp_path: Path) -> None:
    whole = compare(export(llama, tmp_path), llama, text)
    (tmp_path / "parts").mkdir()
    parts = compare(export(llama, tmp_path / "parts", part_file_size=20_000 / 1e9), llama, text)
    assert whole == parts


def test_lines_are_cut_at_the_limit_of_the_model_or_the_user(llama: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path)
    text = write_lines(tmp_path / "long.jsonl", token_ids(10, 64, 65, 200))
    assert [compare(output, llama, text).samples_cut, compare(output, llama, text).tokens] == [2, 9 + 3 * 63]
    found = compare(output, llama, text, max_length=10)
    assert (found.samples_cut, found.tokens) == (3, 4 * 9)


def test_progress_increases_until_the_end(llama: Path, text: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    compare(export(llama, tmp_path), llama, text, progress=seen.append)
    assert [(at.layer, at.sample) for at in seen] == sorted((at.layer, at.sample) for at in seen)
    assert (seen[0].layer, seen[0].sample, seen[-1].layer, seen[-1].sample) == (0, 0, 3, 24)
    assert {(at.layers, at.samples) for at in seen} == {(3, 24)}


def test_a_text_without_predicted_tokens_is_refused(llama: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path)
    with pytest.raises(InvalidInputError, match="no line has two tokens"):
        compare(output, llama, write_lines(tmp_path / "short.jsonl", [[5], [6]]))


def test_another_model_is_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path)
    other = write_model(tmp_path / f"other-{tmp_path.name}", intermediate_size=64)
    with pytest.raises(Fa3Error, match="has shape"):
        compare(output, other, text)


def test_a_float_model_that_is_not_finite_is_named(llama: Path, text: Path, tmp_path: Path) -> None:
    output = export(llama, tmp_path)
    edit_weights(llama, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(InvalidInputError, match="model.norm.weight holds NaN"):
        compare(output, llama, text)


def test_default_quantization_changes_perplexity_by_less_than_1_percent(tmp_path: Path) -> None:
    """Uses the trained Qwen2, with its calibration lines and a part of its evaluation text."""
    folder = copy_model(SHARED_MODELS / "qwen2-tiny-trained", tmp_path / f"trained-{tmp_path.name}")
    patching.patch(folder)
    api.quantize(folder, calib=folder / "calib.jsonl", samples=16, max_length=256, output=tmp_path / "out")
    part = tmp_path / "eval.jsonl"
    part.write_text("".join((folder / "eval.jsonl").read_text().splitlines(keepends=True)[:32]))
    found = compare(tmp_path / "out", folder, part, max_length=256)
    assert found.tokens > 4000
    assert abs(found.perplexity_quantized / found.perplexity_float - 1) < 0.01
    assert found.kl_divergence < 0.02 and found.top1_agreement > 0.9
