"""Tests that exports with any mix of float and W8A8 linears pass verification."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from fa3cli.exports.companions import exported_config
from fa3cli.exports.safetensors_writer import header_room
from fa3cli.exports.target_export import TargetExport
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.verification import verify_export
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.linear import quantize_linear
from tests.exports.exports import SMALL, build_for

MODELSLIM = TARGETS["modelslim"]
ATTENTIONS = ["model.layers.0.self_attn", "model.layers.1.self_attn"]
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 32,
}
_OUT = {"q_proj": 16, "k_proj": 8, "v_proj": 8, "o_proj": 16, "gate_proj": 24, "up_proj": 24, "down_proj": 16}


def qwen2(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of a model with two layers, in module order; q, k and v have a bias."""
    tensors = {"model.embed_tokens.weight": torch.randn(32, 16)}
    for layer in ("model.layers.0", "model.layers.1"):
        for leaf, out in _OUT.items():
            parent = "self_attn" if leaf in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            name = f"{layer}.{parent}.{leaf}"
            tensors[f"{name}.weight"] = torch.randn(out, 24 if leaf == "down_proj" else 16)
            if leaf in ("q_proj", "k_proj", "v_proj"):
                tensors[f"{name}.bias"] = torch.randn(out)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = torch.ones(16)
    tensors |= {"model.norm.weight": torch.ones(16), "lm_head.weight": torch.randn(32, 16)}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def quantizable(tensors: dict[str, Tensor]) -> set[str]:
    """Return all linears except down_proj and lm_head."""
    names = [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]
    return {name for name in names if not name.endswith("down_proj")}


def write_export(
    folder: Path,
    dtype: torch.dtype,
    *,
    attentions: Collection[str] = ATTENTIONS,
    tied: bool = False,
    part_bytes: int | None = None,
    left_float: Collection[str] = (),
) -> tuple[dict[str, Tensor], list[Path]]:
    """Write an export as a run does; return the float tensors and the weight files."""
    tensors = qwen2(dtype)
    quantized = quantizable(tensors) - set(left_float)
    export = TargetExport(MODELSLIM, folder, list(tensors), (quantizable(tensors), ATTENTIONS, ()), part_bytes)
    low, high = torch.tensor([-2.0]), torch.tensor([3.0])
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if name == f"{module}.weight" and module in quantized:
            bias = tensors.get(f"{module}.bias")
            export.add_linear(module, quantize_linear(tensor, bias, low, high, dtype), "W8A8")
        elif not (tied and name == "lm_head.weight"):
            export.add(name, tensor)
    for attention in attentions:
        ranges = {role: torch.rand(heads) + 1 for role, heads in (("q", 4), ("k", 2), ("v", 2))}
        made = [quantize_heads(role, -high, high, dtype) for role, high in ranges.items()]
        export.add_attention(attention, {leaf: tensor for role in made for leaf, tensor in role.items()}, 4)
    linears = [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]
    config = exported_config(CONFIG | {"tie_word_embeddings": tied}, dtype)
    files = export.close([*linears, "lm_head"], config)
    (folder / "tokenizer.json").write_text("{}")
    return tensors, files


def stored_tensors(files: list[Path]) -> dict[str, Tensor]:
    tensors = {}
    for file in files:
        with safe_open(file, "pt") as shard:
            names = shard.keys()
            tensors |= {name: shard.get_tensor(name) for name in names}
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part_bytes", [None, 20_000])
@pytest.mark.parametrize("tied", [False, True])
def test_verification_finds_nothing(tmp_path: Path, dtype: torch.dtype, part_bytes: int | None, tied: bool) -> None:
    _, files = write_export(tmp_path, dtype, tied=tied, part_bytes=part_bytes)
    report = verify_export(tmp_path)
    assert report.ok and {finding.check for finding in report.findings} <= SMALL
    assert (len(files) > 1) == bool(part_bytes)
    assert ("lm_head.weight" in stored_tensors(files)) != tied


def test_files_have_the_guides_names(tmp_path: Path) -> None:
    _, files = write_export(tmp_path, torch.float32)
    assert [file.name for file in files] == ["quant_model_weight_w8a8.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "quant_model_description.json",
        "quant_model_description_w8a8.json",
        "quant_model_weight_w8a8.safetensors",
    }


def test_shards_have_the_guides_names(tmp_path: Path) -> None:
    _, files = write_export(tmp_path, torch.float32, part_bytes=30_000)
    count = len(files)
    for number, file in enumerate(files, 1):
        assert file.name == f"quant_model_weight_w8a8-{number:05d}-of-{count:05d}.safetensors"
        assert file.stat().st_size <= 30_000
    assert (tmp_path / "quant_model_weight_w8a8.safetensors.index.json").is_file()
    assert not (tmp_path / "quant_model_weight_w8a8.safetensors").exists()


def test_description_and_tensors_agree(tmp_path: Path) -> None:
    tensors, files = write_export(tmp_path, torch.bfloat16, attentions=ATTENTIONS[1:])
    description = json.loads((tmp_path / "quant_model_description.json").read_text())
    assert description.pop("model_quant_type") == "W8A8"
    assert description.pop("fa_quant_type") == "FAQuant"
    found = stored_tensors(files)
    assert description.keys() == found.keys()
    floats = {name for name, kind in description.items() if kind == "FLOAT"}
    assert all(torch.equal(found[name], tensors[name]) for name in floats)
    assert {name for name, kind in description.items() if kind == "FAQuant"} == {
        name for name in found if name.startswith("model.layers.1.self_attn.fa_")
    }
    assert all(f"{module}.deq_scale" in found for module in quantizable(tensors))
    assert all(found[f"{module}.weight"].dtype == torch.int8 for module in quantizable(tensors))
    assert "model.layers.0.self_attn.q_proj.bias" in floats


@pytest.mark.parametrize("module", ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.q_proj"])
def test_a_linear_without_int8_tensors_is_described_as_float(tmp_path: Path, module: str) -> None:
    """The header has room for it either way; a linear that stays float is described as float."""
    tensors, files = write_export(tmp_path, torch.bfloat16, left_float=[module])
    description = json.loads((tmp_path / "quant_model_description.json").read_text())
    mine = {name: kind for name, kind in description.items() if name.startswith(f"{module}.")}
    assert mine == {name: "FLOAT" for name in tensors if name.startswith(f"{module}.")}
    found = stored_tensors(files)
    assert {name for name in found if name.startswith(f"{module}.")} == mine.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in mine)
    assert description.pop("model_quant_type") == "W8A8"
    others = MODELSLIM.exported_names([], quantizable(tensors) - {module}, (), ())
    assert {name for name, kind in description.items() if kind == "W8A8"} == set(others)
    assert verify_export(tmp_path).ok


@pytest.mark.parametrize("turned", [False, True])
def test_the_description_is_in_module_order_for_any_order_of_writing(tmp_path: Path, turned: bool) -> None:
    """Linears, attentions and float tensors become final in different orders."""
    names = ["a.q_proj.weight", "a.norm.weight", "b.q_proj.weight", "b.norm.weight"]
    linears, attentions = ["a.q_proj", "b.q_proj"], ["a", "b"]
    export = TargetExport(MODELSLIM, tmp_path, names, (linears, attentions, ()))
    range_, weight = (torch.tensor([-1.0]), torch.tensor([1.0])), torch.ones(2, 3)
    heads = [quantize_heads(role, -torch.ones(2), torch.ones(2), torch.float32) for role in "qkv"]
    steps = [
        *(("linear", name, quantize_linear(weight, None, *range_, torch.float32)) for name in linears),
        *(("attention", name, {leaf: value for role in heads for leaf, value in role.items()}) for name in "ab"),
        *(("tensor", f"{name}.norm.weight", torch.ones(3)) for name in "ab"),
    ]
    for kind, name, value in reversed(steps) if turned else steps:
        if kind == "attention":
            export.add_attention(name, value, 4)
        else:
            export.add_linear(name, value, "W8A8") if kind == "linear" else export.add(name, value)
    files = export.close(linears, {})
    described = list(json.loads((tmp_path / "quant_model_description.json").read_text()))
    assert described == [
        "model_quant_type",
        "fa_quant_type",
        *(
            name
            for layer in "ab"
            for name in (
                *MODELSLIM.exported_names([], [], [layer], []),
                *MODELSLIM.exported_names([], [f"{layer}.q_proj"], [], []),
                f"{layer}.norm.weight",
            )
        ),
    ]
    assert stored_tensors(files).keys() == set(described[2:])


def test_the_description_does_not_mention_fa_without_fa3(tmp_path: Path) -> None:
    write_export(tmp_path, torch.float32, attentions=())
    for file in tmp_path.glob("*description*"):
        assert "fa_" not in file.read_text().replace("_fa_", "")


def test_the_header_of_a_model_with_many_experts_can_be_read() -> None:
    """safetensors refuses headers of more than 100 MB; 384 experts in each of 60 layers are 69,120 linears."""
    experts = [f"model.layers.{layer}.mlp.experts.{expert}" for layer in range(1, 61) for expert in range(384)]
    linears = {f"{name}.{leaf}_proj" for name in experts for leaf in ("gate", "up", "down")}
    weights = [f"{name}.weight" for name in linears]
    dynamic, static = (MODELSLIM.exported_names(weights, linears, (), (), names) for names in (linears, ()))
    assert header_room(dynamic, {}) < 100_000_000 < header_room(static, {})


def test_the_exported_names_are_the_stored_names(tmp_path: Path) -> None:
    tensors, files = write_export(tmp_path, torch.float32)
    names = MODELSLIM.exported_names(list(tensors), quantizable(tensors), ATTENTIONS, ())
    assert stored_tensors(files).keys() == set(names)


@pytest.mark.parametrize("target", ["modelslim", "mindie", "vllm-ascend", "mindie-sd"])
def test_entries_of_msmodelslims_newer_saver_are_for_engines_that_read_them(target: str, tmp_path: Path) -> None:
    """The guide's Calibrator writes none, and the description for modelslim equals the guide's."""
    description = build_for(target, tmp_path).description
    entries = {"version": "1.0.0", "group_size": 0, "metadata": {}, "optional": {}}
    expected = entries if target in ("mindie", "vllm-ascend") else {}
    assert {name: value for name, value in description.items() if name in entries} == expected
