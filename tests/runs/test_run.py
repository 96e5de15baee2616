"""Tests whole runs from a patched folder to an export, against results of ordinary forwards."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli import api, patching
from fa3cli.errors import ConflictError, InvalidInputError, MissingCapabilityError, UnsupportedError
from fa3cli.exports.layout import FA_TENSORS, W8A8_TENSORS
from fa3cli.exports.verification import verify_export
from fa3cli.runs.progress import Progress
from fa3cli.runs.run import Result
from tests import sample_models
from tests.conftest import EXAMPLES, SHARED_MODELS, copy_model
from tests.export_files import WEIGHT_FILE
from tests.runs.reference import fallback_score, head_scale, linear_tensors, load, observe
from tests.sample_models import (
    edit_weights,
    snapshot,
    split_weights,
    token_ids,
    write_lines,
    write_model,
)

REPORT = "fa3_report.json"


def quantize(folder: Path, calib: Path, name: str = "out", **options: Any) -> tuple[Path, Result]:
    output = folder.parent / name
    options = {"recipe": "default"} | options
    result = api.quantize(folder, calib=calib, output=output, **options)
    assert result is not None and result.output == output
    return output, result


def contents(output: Path) -> dict[str, bytes]:
    """The files of an export without the report, which contains the duration."""
    return {name: data for name, data in snapshot(output).items() if name != REPORT}


# ---- the numbers


def trained(name: str) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        copy_model(SHARED_MODELS / name, folder)
        patching.patch(folder)
        return folder

    return copy


def shipped(folder: Path) -> Path:
    copy_model(EXAMPLES / "qwen2-tiny", folder)
    patching.patch(folder)
    return folder


def sharded(folder: Path) -> Path:
    trained("qwen2-tiny-trained-bf16")(folder)
    split_weights(folder, 3)
    return folder


def half(folder: Path) -> Path:
    return write_model(folder, "qwen2", dtype=torch.float16)


MODELS = {
    "shipped-bf16": shipped,
    "trained-fp32": trained("qwen2-tiny-trained"),
    "trained-bf16-shards": sharded,
    "stories-tied": trained("stories260k-llama"),
    "random-fp16": half,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_an_export_equals_the_results_of_ordinary_forwards(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / f"model-{tmp_path.name}")
    samples = token_ids(40, 64, 21)
    output, result = quantize(folder, write_lines(tmp_path / "calib.jsonl", samples))
    report = verify_export(output)
    assert report.ok and {finding.check for finding in report.findings} <= {
        *("tokenizer", "tensor-parallel", "mindie-turbo", "kernel-dtype"),
    }
    assert (result.samples, result.tokens) == (3, 125)

    tensors, source, model = load_file(output / WEIGHT_FILE), checkpoint(folder), load(folder)
    seen, dtype = observe(model, samples), next(model.parameters()).dtype
    layers = [f"model.layers.{index}" for index in range(model.config.num_hidden_layers)]
    assert [layer.name for layer in result.layers] == layers
    expected = {}
    for name, linear in model.named_modules():
        if name.startswith("model.layers.") and name.endswith("_proj") and not name.endswith("down_proj"):
            wanted = linear_tensors(linear, seen.inputs[name], dtype)
            expected.update({f"{name}.{leaf}": tensor for leaf, tensor in wanted.items()})
    for layer in layers:
        for role, states in seen.states[f"{layer}.self_attn"].items():
            scale = head_scale(states, role).to(dtype)
            expected[f"{layer}.self_attn.fa_{role}.scale"] = scale
            expected[f"{layer}.self_attn.fa_{role}.offset"] = torch.zeros(scale.shape, dtype=torch.int8)
    for name in source.keys() - expected.keys():
        expected[name] = source[name]
    assert tensors.keys() == expected.keys()
    for name, wanted in expected.items():
        assert tensors[name].dtype == wanted.dtype and torch.equal(tensors[name], wanted), name


def checkpoint(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_the_order_of_the_samples_does_not_matter(llama: Path, tmp_path: Path) -> None:
    samples = token_ids(9, 17, 5, 30, 2)
    first, _ = quantize(llama, write_lines(tmp_path / "a.jsonl", samples), "a")
    for seed in range(3):
        random.Random(seed).shuffle(samples)
        again, _ = quantize(llama, write_lines(tmp_path / "b.jsonl", samples), f"b{seed}")
        assert contents(again) == contents(first)


def test_the_same_run_twice_gives_the_same_bytes(qwen2_tiny: Path) -> None:
    calib = EXAMPLES / "qwen2-tiny-calib.jsonl"
    options = {"samples": 4, "max_length": 32, "fa_amp": 1}
    outputs = [quantize(qwen2_tiny, calib, name, **options)[0] for name in "ab"]
    assert contents(outputs[0]) == contents(outputs[1])


def test_shards_and_a_single_file_give_the_same_bytes(llama: Path, calib: Path) -> None:
    single, _ = quantize(llama, calib, "single")
    split_weights(llama, 4)
    shards, _ = quantize(llama, calib, "shards")
    found = [load_file(output / WEIGHT_FILE) for output in (single, shards)]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


# ---- modules that stay float


@pytest.mark.parametrize("amount", [1, 2, 3, 9])
def test_fa_amp_skips_exactly_the_lowest_scores(llama: Path, calib: Path, amount: int) -> None:
    whole, _ = quantize(llama, calib, "whole")
    output, result = quantize(llama, calib, fa_amp=amount)
    seen = observe(load(llama), token_ids(9, 17, 5))
    scores = {name: fallback_score(states) for name, states in seen.states.items()}
    lowest = sorted(scores, key=scores.__getitem__)[:amount]
    assert [layer.fa_score for layer in result.layers] == pytest.approx(list(scores.values()), abs=1e-6)
    assert [layer.fa for layer in result.layers] == [name not in lowest for name in scores]
    left_out = {f"{name}.{leaf}" for name in lowest for leaf in FA_TENSORS}
    before, after = (load_file(folder / WEIGHT_FILE) for folder in (whole, output))
    assert before.keys() - after.keys() == left_out
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert verify_export(output).ok


def test_fa_amp_uses_only_the_first_sample(llama: Path, tmp_path: Path) -> None:
    first, *others = token_ids(9, 17, 5)
    scores = []
    for name, samples in {"a": [first], "b": [first, *others]}.items():
        _, result = quantize(llama, write_lines(tmp_path / f"{name}.jsonl", samples), name, fa_amp=1)
        scores.append([layer.fa_score for layer in result.layers])
    assert scores[0] == scores[1]


def test_disabled_modules_stay_float(llama: Path, calib: Path) -> None:
    output, result = quantize(llama, calib, disable_names=("model.layers.1.self_attn", "*.0.mlp.*_proj"))
    description = json.loads((output / "quant_model_description.json").read_text())
    tensors, source = load_file(output / WEIGHT_FILE), checkpoint(llama)
    assert "model.layers.1.self_attn.fa_q.scale" not in tensors
    assert description["model.layers.1.self_attn.q_proj.weight"] == "W8A8"
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight = f"model.layers.0.mlp.{name}.weight"
        assert description[weight] == "FLOAT" and torch.equal(tensors[weight], source[weight])
    assert result.layers[1].fa is False and result.layers[0].quantized == 4
    assert result.layers[1].fa_reason == "disable_names" and result.layers[0].fa_reason is None
    assert result.layers[0].float_linears == {
        f"model.layers.0.mlp.{name}": "disable_names" for name in ("gate_proj", "up_proj", "down_proj")
    }
    assert not [finding for finding in verify_export(output).findings if finding.severity == "error"]


def test_no_fa_needs_no_patch(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / "plain", patched=False)
    output, result = quantize(folder, calib, fa=False)
    description = json.loads((output / "quant_model_description.json").read_text())
    assert "fa_quant_type" not in description
    assert {layer.fa for layer in result.layers} == {None}
    assert not any(".fa_" in name for name in load_file(output / WEIGHT_FILE))
    assert verify_export(output).ok


@pytest.mark.parametrize("model_type", ["mistral", "phi3"])
def test_other_model_types_are_exported(tmp_path: Path, calib: Path, model_type: str) -> None:
    folder = write_model(tmp_path / f"{model_type}-{tmp_path.name}", model_type)
    output, result = quantize(folder, calib)
    assert all(layer.fa for layer in result.layers)
    assert verify_export(output).ok


# ---- files


def test_numpy_files_contain_the_same_tensors(llama: Path, calib: Path) -> None:
    both, _ = quantize(llama, calib, "both", save_types=["safe_tensor", "numpy"])
    alone, _ = quantize(llama, calib, "alone", save_types=["numpy"])
    files = {file.name for file in both.glob("*.npy")}
    assert files == {file.name for file in alone.glob("*.npy")}
    assert files == {f"{name}.npy" for name in ("quant_weight", *W8A8_TENSORS[1:], "fa_quant_scale", "fa_quant_offset")}
    assert not list(alone.glob("*.safetensors*"))
    tensors = load_file(both / WEIGHT_FILE)
    found = {}
    for file in files:
        kind = file.removesuffix(".npy")
        kinds = np.load(alone / file, allow_pickle=True).item()
        for key, value in kinds.items():
            leaf = {"quant_weight": ".weight", "fa_quant_scale": ".scale", "fa_quant_offset": ".offset"}
            name = f"{key}{leaf.get(kind, f'.{kind}')}"
            found[key if key in tensors else name] = value
    assert found.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.items())


def test_parts_do_not_exceed_the_size_limit(llama: Path, calib: Path) -> None:
    whole, _ = quantize(llama, calib, "whole")
    output, result = quantize(llama, calib, part_file_size=30_000 / 1e9)
    parts = sorted(output.glob("*.safetensors"))
    assert len(parts) > 1 and not (output / WEIGHT_FILE).exists()
    assert [part.name for part in parts] == [
        WEIGHT_FILE.replace(".safetensors", f"-{number:05d}-of-{len(parts):05d}.safetensors")
        for number in range(1, len(parts) + 1)
    ]
    assert all(len(load_file(part)) == 1 or part.stat().st_size <= 30_000 for part in parts)
    index = json.loads((output / f"{WEIGHT_FILE}.index.json").read_text())["weight_map"]
    tensors = load_file(whole / WEIGHT_FILE)
    assert index.keys() == tensors.keys()
    found = {name: tensor for part in parts for name, tensor in load_file(part).items()}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.items())
    assert verify_export(output).ok
    assert {part.name for part in parts} < set(result.files)


def test_config_and_companions_are_copied(qwen2_tiny: Path) -> None:
    original = json.loads((EXAMPLES / "qwen2-tiny" / "config.json").read_text())
    (qwen2_tiny / "tool.py").write_text("")
    output, _ = quantize(qwen2_tiny, EXAMPLES / "qwen2-tiny-calib.jsonl", samples=1, max_length=16)
    assert json.loads((output / "config.json").read_text()) == original | {"quantize": "w8a8"}
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ):
        assert (output / name).read_bytes() == (qwen2_tiny / name).read_bytes()
    assert (output / "tool.py").exists()
    assert not list(output.glob("*_fa3.py")) and not (output / "model.safetensors").exists()
    assert output.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in output.iterdir()} == {0o640}


def test_the_export_has_the_dtype_of_the_run(qwen2_tiny: Path) -> None:
    calib = EXAMPLES / "qwen2-tiny-calib.jsonl"
    output, _ = quantize(qwen2_tiny, calib, samples=1, max_length=16, dtype="float32")
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == "float32"
    tensors = load_file(output / WEIGHT_FILE)
    assert tensors["model.layers.0.self_attn.q_proj.deq_scale"].dtype == torch.int64
    assert tensors["model.norm.weight"].dtype == torch.float32
    assert verify_export(output).ok


def test_the_source_folder_is_not_changed(llama: Path, calib: Path) -> None:
    before = snapshot(llama)
    quantize(llama, calib)
    assert snapshot(llama) == before


# ---- the output folder


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_with_other_files_is_refused(llama: Path, calib: Path, kind: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "mine").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(ConflictError, match="already holds something else"):
        api.quantize(llama, calib=calib, output=output)
    assert snapshot(tmp_path) == before


def test_an_empty_output_folder_is_filled(llama: Path, calib: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    quantize(llama, calib)


# ---- stopped


@pytest.mark.parametrize("calls", [1, 4])
def test_an_interrupt_in_the_first_layer_leaves_nothing(llama: Path, calib: Path, tmp_path: Path, calls: int) -> None:
    before, left = snapshot(tmp_path), iter(range(calls - 1))

    def interrupt(_: Progress) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.quantize(llama, calib=calib, output=tmp_path / "out", progress=interrupt)
    assert snapshot(tmp_path) == before
    assert {file.name for file in tmp_path.iterdir()} == {llama.name, calib.name}
    quantize(llama, calib)


def test_progress_counts_layers_and_samples(llama: Path, calib: Path) -> None:
    seen: list[Progress] = []
    quantize(llama, calib, progress=seen.append)
    assert [(at.layer, at.sample) for at in seen] == [
        position
        for layer in range(3)
        for position in (
            *((layer, 3 * layer + sample) for sample in range(3)),
            (layer + 1, 3 * layer + 3),
        )
    ]
    assert {(at.layers, at.samples) for at in seen} == {(3, 9)}
    assert seen[-1].seconds_left == 0 and seen[-1].tokens_per_second > 0 and seen[-1].read_per_second > 0


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(llama: Path, calib: Path, tmp_path: Path, name: str, value: float) -> None:
    edit_weights(llama, lambda tensors: tensors[name][1].fill_(value))
    before = snapshot(tmp_path)
    with pytest.raises(InvalidInputError, match=f"model.safetensors: {name} holds NaN or infinite"):
        api.quantize(llama, calib=calib, output=tmp_path / "out")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_model_that_overflows_is_named_by_module(tmp_path: Path, calib: Path, dtype: torch.dtype) -> None:
    folder = write_model(tmp_path / f"huge-{tmp_path.name}", dtype=dtype)
    huge = torch.finfo(dtype).max / 4
    edit_weights(folder, lambda tensors: tensors["model.layers.1.self_attn.v_proj.weight"].fill_(huge))
    before = snapshot(tmp_path)
    with pytest.raises(InvalidInputError, match=r"model\.layers\.1\.self_attn.* is not finite"):
        api.quantize(folder, calib=calib, output=tmp_path / "out", recipe="default")
    with pytest.raises(InvalidInputError, match=r"the input of model\.layers\.1\.mlp.* is not finite"):
        api.quantize(folder, calib=calib, output=tmp_path / "out", anti_method="m3")
    assert snapshot(tmp_path) == before


def test_a_disk_without_enough_space_is_refused(
    llama: Path, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    before = snapshot(tmp_path)
    with pytest.raises(MissingCapabilityError, match="the export needs .* MB, but .* MB free"):
        api.quantize(llama, calib=calib, output=tmp_path / "out")
    assert snapshot(tmp_path) == before and not (tmp_path / "out.journal").exists()


@pytest.mark.parametrize("save_types", [["safe_tensor"], ["numpy"], ["safe_tensor", "numpy"]])
def test_the_plan_covers_the_disk_space_that_is_used(
    qwen2_tiny: Path, save_types: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calib, output = EXAMPLES / "qwen2-tiny-calib.jsonl", qwen2_tiny.parent / "out"
    job = sample_models.prepare(qwen2_tiny, calib=calib, output=output, samples=1, max_length=8, save_types=save_types)
    planned, beside = api.plan(job), 200_000
    most = 0
    rename = Path.rename

    def measured(file: Path, *args: Any, **kwargs: Any) -> Path:
        nonlocal most
        left = output.with_name("out.journal").rglob("*")
        most = max(most, sum(entry.stat().st_size for entry in left if entry.is_file()))
        return rename(file, *args, **kwargs)

    monkeypatch.setattr(Path, "rename", measured)
    result = api.run(job)
    assert most >= result.bytes_written
    wanted = planned.bytes_written + planned.journal_bytes
    assert most - beside < wanted < 1.1 * most + beside


def test_a_model_that_skips_its_quantizer_is_refused(llama: Path, calib: Path, tmp_path: Path) -> None:
    module = llama / "modeling_llama_fa3.py"
    text = module.read_text()
    call = next(line for line in text.splitlines() if 'qkv="k"' in line)
    module.write_text(text.replace(call, call[: len(call) - len(call.lstrip())] + "pass"))
    with pytest.raises(UnsupportedError, match="k states never went through its fa_quantizer"):
        api.quantize(llama, calib=calib, output=tmp_path / "out", trust_remote_code=True)
    assert not (tmp_path / "out").exists()
