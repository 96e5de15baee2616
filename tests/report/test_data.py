"""Tests that the facts combine the tensors and the run's report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa3cli.errors import InvalidInputError
from fa3cli.report.data import gather
from fa3cli.report.facts import NOT_LINEAR, FloatModule
from tests.exports.exports import WEIGHTS, Export, build_export
from tests.exports.pipelines import write_flux
from tests.golden import ABSENT, GOLDEN
from tests.report.exports import layer, report_of, write_heads, write_report


def test_facts_combine_the_export_and_its_report(export: Export) -> None:
    facts = gather(export.folder)
    first, second = facts.layers
    assert (facts.name, facts.model_type, facts.dtype, facts.target) == (
        "model-w8a8-fa3",
        "llama",
        "float32",
        "modelslim",
    )
    assert (facts.quantized, facts.left_float, facts.with_fa, facts.attentions) == (12, 2, 1, 2)
    assert (first.fa_roles, second.fa_roles, second.fa_reason) == (("q", "k", "v"), (), "fa_amp")
    assert (first.error, first.accumulated_error, second.accumulated_error) == (0.03, 0.01, 0.02)
    assert first.float_linears == (FloatModule("model.layers.0.mlp.down_proj", "disable_names"),)
    assert facts.worst == (first, second)
    assert facts.float_elsewhere == (
        FloatModule("model.embed_tokens", NOT_LINEAR),
        FloatModule("lm_head", "disable_last_linear"),
    )
    assert facts.accuracy.perplexity_quantized == 29.484
    assert facts.origin.versions["torch"] == "2.13.0" and facts.origin.hashes.keys() == {"weights", "config"}
    assert facts.origin.run == {"dtype": "torch.float32", "device": "cpu", "threads": 2}
    assert len(facts.warnings) == 1 and facts.remarks == ()


def test_the_command_depends_on_the_target(tmp_path: Path) -> None:
    folder = build_export(tmp_path, torch.bfloat16).folder
    for target, command in (
        ("vllm", f"vllm serve {folder}"),
        ("vllm-ascend", f"vllm serve {folder} --quantization ascend --dtype bfloat16"),
        ("a-later-one", None),
    ):
        write_report(folder, report_of([], target=target))
        assert gather(folder).serve == command


def test_no_engine_serves_an_ascend_export_in_float32(tmp_path: Path) -> None:
    """vLLM would serve it in bfloat16, whose deq_scale has another form."""
    folder = build_export(tmp_path, torch.float32).folder
    write_report(folder, report_of([], target="modelslim"))
    assert gather(folder).serve is None


def test_scales_equal_the_stored_tensors(export: Export) -> None:
    for scales in gather(export.folder).scales:
        assert scales.values == tuple(export.tensors[scales.tensor].flatten().tolist())


def test_facts_come_from_the_tensors_without_a_report(tmp_path: Path) -> None:
    facts = gather(build_export(tmp_path, torch.bfloat16).folder)
    assert facts.origin is None and facts.accuracy is None and facts.target == "modelslim"
    assert [layer.quantized for layer in facts.layers] == [6, 6]
    assert facts.layers[1].float_linears == (FloatModule("model.layers.1.mlp.down_proj", None),)
    assert any("fa3_report.json" in remark for remark in facts.remarks)


def test_routers_are_listed_without_a_report(export: Export) -> None:
    for number in range(2):
        for leaf in ("gate", "shared_expert_gate", "experts.0.up_proj"):
            export.add(f"model.layers.{number}.mlp.{leaf}.weight", torch.zeros(2, 2), "FLOAT")
    export.save()
    (export.folder / "fa3_report.json").unlink()
    listed = gather(export.folder).layers[1].float_linears
    routers = [linear.name.rpartition(".")[2] for linear in listed if linear.reason == "router"]
    assert sorted(routers) == ["gate", "shared_expert_gate"]


def test_facts_of_a_pipeline_transformer_are_read(tmp_path: Path) -> None:
    tensors, *_ = write_flux(tmp_path)
    facts = gather(tmp_path)
    assert (facts.target, facts.architecture, facts.dtype) == (
        "mindie-sd",
        "FluxTransformer2DModel",
        "bfloat16",
    )
    assert {layer.name: (layer.quantized, layer.fa) for layer in facts.layers} == {
        "transformer_blocks.0": (6, True),
        "transformer_blocks.1": (6, True),
        "single_transformer_blocks.0": (5, True),
    }
    assert len(facts.scales) == 9 and facts.quantized_elsewhere == ()
    for scales in facts.scales:
        assert scales.values == tuple(tensors[scales.tensor].flatten().tolist())
    assert FloatModule("x_embedder", None) in facts.float_elsewhere  # a linear, unlike an embedding


def test_shards_give_the_same_facts_as_one_file(export: Export) -> None:
    whole = gather(export.folder)
    export.save(shards=3)
    parts = gather(export.folder)
    assert parts.scales == whole.scales and parts.layers == whole.layers


def test_int8_counts_as_quantized_without_a_description(export: Export) -> None:
    """Exports for vllm have no description."""
    (export.folder / "quant_model_description_w8a8.json").unlink()
    (export.folder / WEIGHTS).rename(export.folder / "model.safetensors")
    assert gather(export.folder).quantized == 12


def test_facts_of_a_numpy_export_come_from_its_report(export: Export) -> None:
    (export.folder / WEIGHTS).unlink()
    (export.folder / "quant_model_description_w8a8.json").unlink()
    facts = gather(export.folder)
    assert [layer.quantized for layer in facts.layers] == [6, 6]
    assert [layer.fa for layer in facts.layers] == [True, False]
    assert facts.scales == () and any("pickled" in remark for remark in facts.remarks)


def test_a_layer_may_have_no_attention(export: Export) -> None:
    write_report(export.folder, report_of([layer(0), layer(1) | {"fa": None}]))
    facts = gather(export.folder)
    assert [layer.fa for layer in facts.layers] == [True, None] and facts.attentions == 1


@pytest.mark.parametrize("file", ["fa3_report.json", "config.json", "quant_model_description_w8a8.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "\xff"])
def test_a_broken_document_is_named(export: Export, file: str, text: str) -> None:
    (export.folder / file).write_bytes(text.encode("latin-1"))
    facts = gather(export.folder)
    assert any(remark.startswith(file) for remark in facts.remarks)
    assert len(facts.layers) == 2


def test_a_broken_shard_is_named(export: Export) -> None:
    export.save(shards=2)
    [broken, _] = sorted(export.folder.glob("*.safetensors"))
    broken.write_bytes(b"\0" * 9)
    assert any(remark.startswith(broken.name) for remark in gather(export.folder).remarks)


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "float", "broken"])
def test_a_folder_without_an_export_is_an_error(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    if kind == "file":
        folder.write_text("")
    elif kind != "missing":
        folder.mkdir()
    if kind == "float":
        save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    if kind == "broken":
        (folder / "model.safetensors").write_bytes(b"1")
    with pytest.raises(InvalidInputError) as error:
        gather(folder)
    assert str(folder) in str(error.value) and error.value.hint


def test_an_error_names_the_exports_in_subfolders(export: Export) -> None:
    with pytest.raises(InvalidInputError) as error:
        gather(export.folder.parent)
    assert error.value.hint.endswith(": model-w8a8-fa3")


@ABSENT
@pytest.mark.parametrize(
    ("case", "quantized", "left_float", "with_fa"),
    [
        ("llama_float32_act1_amp0_L0", None, None, 4),
        ("llama_float32_act1_amp2_L5", 19, 9, 2),
        ("llama_float32_anti_m3_act3_amp0_L5", None, None, 4),
        ("qwen2_float32_act1_amp2_L5", None, None, 2),
    ],
)
def test_exports_of_msmodelslim_are_read(
    case: str, quantized: int | None, left_float: int | None, with_fa: int
) -> None:
    folder = GOLDEN / "cases" / case
    facts = gather(folder)
    described = json.loads((folder / "quant_model_description_w8a8.json").read_text())
    linears = {name for name in described if name.endswith(".deq_scale")}
    assert facts.quantized == len(linears) and facts.with_fa == with_fa
    assert quantized in (None, facts.quantized) and left_float in (None, facts.left_float)
    tensors = load_file(folder / WEIGHTS)
    assert {scales.tensor: list(scales.values) for scales in facts.scales} == {
        name: tensor.flatten().tolist()
        for name, tensor in tensors.items()
        if name.endswith((".fa_q.scale", ".fa_k.scale", ".fa_v.scale"))
    }


def test_a_large_model_is_read(tmp_path: Path) -> None:
    write_heads(tmp_path / "large", layers=80, heads=64, kv_heads=8)
    facts = gather(tmp_path / "large")
    assert sum(len(scales.values) for scales in facts.scales) == 80 * (64 + 8 + 8)
    assert [layer.name for layer in facts.layers][9:11] == ["model.layers.9", "model.layers.10"]


def test_gathering_changes_nothing(export: Export, tmp_path: Path) -> None:
    copy = shutil.copytree(export.folder, tmp_path / "copy")
    gather(export.folder)
    for path in copy.iterdir():
        assert (export.folder / path.name).read_bytes() == path.read_bytes()


def test_layers_come_in_the_order_of_the_run(export: Export) -> None:
    """The two kinds of blocks of a diffusion transformer; sorting by name would exchange them."""
    names = ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"]
    report = report_of([layer(0) | {"name": name} for name in names], target="mindie-sd")
    write_report(export.folder, report)
    facts = gather(export.folder)
    assert facts.part == "block" and [layer.name for layer in facts.layers] == names
    # Only modules that the run visited are layers, not everything named so: a text refiner has blocks too.
    elsewhere = [*facts.quantized_elsewhere, *(module.name for module in facts.float_elsewhere)]
    assert any(name.startswith("model.layers.0.") for name in elsewhere)
