"""Tests that one error in a valid export is found by exactly one check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.exports.exports import GOLDEN, Export, build_for, copy_golden, edited, findings_of

Mutation = Callable[[Export], None]

ATTENTION = "model.layers.0.self_attn"
Q, K = f"{ATTENTION}.q_proj", f"{ATTENTION}.k_proj"
DOWN = "model.layers.1.mlp.down_proj"
NORM = "model.layers.0.input_layernorm"


def drop(*names: str) -> Mutation:
    """Remove tensors, and their entries in a description."""

    def mutation(export: Export) -> None:
        for name in names:
            del export.tensors[name]
            export.description.pop(name, None)

    return edited(mutation)


def change(name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> Mutation:
    return edited(lambda export: export.tensors.update({name: how(export.tensors[name]).contiguous()}))


def fill(name: str, value: float) -> Mutation:
    """Overwrite the tensor's last element."""
    return edited(lambda export: export.tensors[name].view(-1)[-1:].fill_(value))


def add(name: str, *shape: int) -> Mutation:
    return edited(lambda export: export.tensors.update({name: torch.ones(shape)}))


def add_described(name: str, value: str, *shape: int) -> Mutation:
    def mutation(export: Export) -> None:
        export.add(name, torch.ones(shape, dtype=torch.bfloat16), value)

    return edited(mutation)


def describe(**entries: object) -> Mutation:
    return edited(lambda export: export.description.update(entries))


def undescribe(*names: str) -> Mutation:
    return edited(lambda export: [export.description.pop(name) for name in names])


def configure(**entries: object) -> Mutation:
    return edited(lambda export: export.config.update(entries))


def quantization(*path: str, value: object) -> Mutation:
    """Set a value in quantization_config."""

    def mutation(export: Export) -> None:
        place = export.config["quantization_config"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return edited(mutation)


def ignored(edit: Callable[[list], object]) -> Mutation:
    return edited(lambda export: edit(export.config["quantization_config"]["ignore"]))


def without_attention(layer: int) -> Mutation:
    def mutation(export: Export) -> None:
        leaves = (".fa_", "kv_cache_", ".q_scale", ".k_scale", ".v_scale")
        for name in [name for name in export.tensors if f"layers.{layer}." in name]:
            if any(leaf in name for leaf in leaves):
                export.tensors.pop(name)
                export.description.pop(name, None)

    return edited(mutation)


def float_linear(module: str, *, ignore: bool = False) -> Mutation:
    """Make a quantized linear float, in the tensors and in the documents."""

    def mutation(export: Export) -> None:
        weight = export.tensors[f"{module}.weight"].to(torch.bfloat16)
        for name in [name for name in export.tensors if name.startswith(f"{module}.") and "kv_" not in name]:
            del export.tensors[name]
            export.description.pop(name, None)
        export.tensors[f"{module}.weight"] = weight
        if export.description:
            export.description[f"{module}.weight"] = "FLOAT"
        if ignore:
            export.config["quantization_config"]["ignore"].append(module)

    return edited(mutation)


def unlink(file: str) -> Mutation:
    return lambda export: (export.folder / file).unlink()


def truncate(export: Export) -> None:
    export.save(shards=3)
    shard = sorted(export.folder.glob(f"{export.weights.removesuffix('.safetensors')}-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])


def cut(export: Export) -> None:
    file = export.folder / export.weights
    file.write_bytes(file.read_bytes()[:-1])


def stale_index(export: Export) -> None:
    listed = dict.fromkeys(export.tensors, export.weights) | {"model.layers.0.gone": export.weights}
    (export.folder / f"{export.weights}.index.json").write_text(json.dumps({"weight_map": listed}))


def permuted_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.roll(1, 0)


def flipped_row(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([-tensor[:1], tensor[1:]])


def stray(export: Export) -> None:
    save_file({"a": torch.ones(1)}, export.folder / "adapter.safetensors")


def null_fa_quant_type(export: Export) -> None:
    export.config["quantization_config"] = export.description | {"fa_quant_type": None}


def another_scale(export: Export, module: str) -> None:
    """Double a linear's input_scale, and the deq_scale that depends on it."""
    export.tensors[f"{module}.input_scale"] *= 2
    export.tensors[f"{module}.deq_scale"] *= 2


def swapped_deq(export: Export) -> None:
    """Pack deq_scale in the form of the other dtypes."""
    name = f"{Q}.deq_scale"
    packed = export.tensors[name]
    is_float = packed.dtype == torch.float32
    export.tensors[name] = packed.view(torch.int32).long() if is_float else packed.int().view(torch.float32)


FA3 = [
    ("linears", drop(f"{Q}.weight_scale")),
    ("linears", drop(f"{Q}.quant_bias", f"{Q}.deq_scale")),
    ("described", undescribe(f"{NORM}.weight")),
    ("described", undescribe("lm_head.weight")),
    ("described", undescribe("model.embed_tokens.weight")),
    ("described", edited(lambda export: export.tensors.pop(f"{NORM}.weight"))),
    ("attentions", drop(f"{ATTENTION}.fa_v.offset")),
    ("quant-types", describe(fa_quant_type=None)),
    ("quant-types", describe(model_quant_type="W8A16")),
    ("quant-types", describe(kv_cache_type="C8")),
    ("quant-types", undescribe("fa_quant_type")),
    ("values", describe(**{f"{Q}.input_scale": "FLOAT"})),
    ("values", describe(**{"lm_head.weight": 3})),
    ("foreign-tensors", add_described(f"{K}.kv_cache_scale", "C8", 16)),
    ("foreign-tensors", add_described(f"{ATTENTION}.q_scale", "FLOAT", 1)),
    ("linear-shapes", change(f"{Q}.weight_scale", lambda scale: scale.flatten())),
    ("linear-shapes", change(f"{Q}.quant_bias", lambda bias: bias[:-1])),
    ("linear-shapes", change(f"{Q}.input_scale", lambda scale: scale.squeeze())),
    ("fa-shapes", change(f"{ATTENTION}.fa_q.scale", lambda scale: scale.flatten())),
    ("fa-shapes", change(f"{ATTENTION}.fa_k.offset", lambda offset: offset.T)),
    ("dtypes", change(f"{Q}.weight", lambda weight: weight.short())),
    ("dtypes", change(f"{ATTENTION}.fa_v.scale", lambda scale: scale.half())),
    ("dtypes", edited(swapped_deq)),
    ("offsets", fill(f"{ATTENTION}.fa_q.offset", 1)),
    ("offsets", fill(f"{Q}.weight_offset", 1)),
    ("offsets", fill(f"{Q}.input_offset", 200)),
    ("scales", fill(f"{Q}.weight_scale", 0)),
    ("scales", fill(f"{ATTENTION}.fa_k.scale", torch.inf)),
    ("deq-scale", change(f"{Q}.deq_scale", permuted_rows)),
    ("quant-bias", change(f"{Q}.weight", flipped_row)),
    ("quant-bias", change(f"{Q}.weight", permuted_rows)),
    ("quant-bias", edited(lambda export: export.tensors[f"{Q}.input_offset"].add_(1))),
    ("quant-bias", fill(f"{Q}.quant_bias", 12345)),
    ("weight-range", fill(f"{Q}.weight", -128)),
    ("finite", fill(f"{NORM}.weight", torch.nan)),
    ("config-sizes", configure(vocab_size=999)),
    ("layer-count", configure(num_hidden_layers=9)),
    ("config", configure(torch_dtype="int4")),
    ("config", unlink("config.json")),
    ("config-auto-map", configure(auto_map={"AutoModelForCausalLM": "modeling_x_fa3.X"})),
    ("remote-code", configure(auto_map={"AutoConfig": "configuration_x.X"})),
    ("quantization-config", configure(quantization_config={"bits": 8})),
    ("weights", truncate),
    ("index", stale_index),
]
MINDIE = [
    ("fused-groups", float_linear(f"{ATTENTION}.k_proj")),
    ("fused-groups", float_linear("model.layers.0.mlp.up_proj")),
    ("fa-layers", without_attention(1)),
    ("config-quantize", configure(quantize=None)),
    ("config-quantize", configure(quantize="w8a8s")),
    ("scale-a-row", edited(lambda export: one_scale(export, Q))),
    ("quant-types", describe(group_size=32)),
    ("quant-types", describe(reduce_quant_type="per_group")),
    ("quantization-config", edited(null_fa_quant_type)),
    ("stale-files", stray),
]
VLLM_ASCEND = [
    ("foreign-tensors", add_described(f"{ATTENTION}.fa_q.scale", "FAQuant", 4, 1)),
    ("foreign-tensors", add_described(f"{NORM}.module.weight", "W8A8", 32)),
    ("quant-types", describe(fa_quant_type="FAQuant")),
    ("quant-types", undescribe("kv_cache_type")),
    ("quant-types", undescribe("kv_quant_type")),
    ("quant-types", describe(kv_quant_type="c8")),
    ("quant-types", edited(lambda export: [without_attention(layer)(export) for layer in range(2)])),
    ("values", describe(**{f"{K}.kv_cache_scale": "FAQuant"})),
    ("values", describe(**{f"{K}.kv_cache_offset": "FLOAT"})),
    ("attentions", drop(f"{K}.kv_cache_offset")),
    ("kv-shapes", change(f"{K}.kv_cache_scale", lambda scale: scale[::8])),
    ("kv-shapes", change(f"{K}.kv_cache_scale", lambda scale: scale.unsqueeze(1))),
    ("offsets", fill(f"{K}.kv_cache_offset", 1)),
    ("scales", change(f"{K}.kv_cache_scale", lambda scale: scale * 0)),
    ("description-name", unlink("quant_model_description.json")),
    ("fused-groups", float_linear(f"{ATTENTION}.q_proj")),
    ("scale-a-row", edited(lambda export: one_scale(export, Q))),
    ("quantization-config", configure(quantization_config={f"{Q}.weight": "W8A8"})),
    ("quant-bias", change(f"{Q}.weight", flipped_row)),
    ("fused-inputs", edited(lambda export: another_scale(export, Q))),
]
VLLM = [
    ("quantization-config", configure(quantization_config=None)),
    ("quantization-config", quantization("quant_method", value="gptq")),
    ("quantization-config", quantization("format", value="dense")),
    ("quantization-config", quantization("config_groups", value={})),
    ("quantization-config", quantization("config_groups", value=[1])),
    ("quantization-config", quantization("config_groups", "group_0", "weights", "num_bits", value=4)),
    ("quantization-config", quantization("config_groups", "group_0", "input_activations", value=None)),
    (
        "quantization-config",
        quantization("config_groups", "group_0", "input_activations", "symmetric", value=True),
    ),
    ("weight-strategy", quantization("config_groups", "group_0", "weights", "strategy", value="tensor")),
    ("weight-strategy", quantization("config_groups", "group_0", "targets", value=["re:.*up_proj"])),
    ("ignore", ignored(lambda names: names.remove(DOWN))),
    ("ignore", ignored(lambda names: names.append(Q))),
    ("ignore", ignored(lambda names: names.append("re:.*o_proj"))),
    ("ignore", quantization("ignore", value=None)),
    ("kv-cache-scheme", quantization("kv_cache_scheme", value=None)),
    ("kv-cache-scheme", quantization("kv_cache_scheme", "num_bits", value=4)),
    ("kv-cache-scheme", quantization("kv_cache_scheme", "type", value="int")),
    ("kv-cache-scheme", quantization("kv_cache_scheme", "dynamic", value=True)),
    ("kv-cache-scheme", quantization("kv_cache_scheme", "strategy", value="channel")),
    ("kv-cache-scheme", edited(lambda export: [without_attention(layer)(export) for layer in range(2)])),
    ("fp8-shapes", change(f"{ATTENTION}.q_scale", lambda scale: scale.flatten())),
    ("fp8-shapes", quantization("kv_cache_scheme", "strategy", value="tensor")),
    ("config-sizes", change(f"{ATTENTION}.k_scale", lambda scale: scale[:1])),
    ("attentions", drop(f"{ATTENTION}.q_scale")),
    ("fa-layers", without_attention(1)),
    ("scales", fill(f"{ATTENTION}.v_scale", -1)),
    ("scales", fill(f"{Q}.input_scale", torch.nan)),
    ("linears", drop(f"{Q}.input_zero_point")),
    ("linears", change(f"{Q}.weight", lambda weight: weight.bfloat16())),
    ("linear-shapes", change(f"{Q}.weight_scale", lambda scale: scale.flatten())),
    ("dtypes", change(f"{Q}.input_zero_point", lambda point: point.bfloat16())),
    ("foreign-tensors", add(f"{Q}.deq_scale", 32)),
    ("foreign-tensors", add(f"{ATTENTION}.fa_q.scale", 4, 1)),
    ("weight-range", fill(f"{Q}.weight", -128)),
    ("fused-groups", float_linear(f"{ATTENTION}.v_proj", ignore=True)),
    ("stale-files", lambda export: (export.folder / "quant_model_description.json").write_text("{}")),
    ("stale-files", stray),
    ("norm-bias", add(f"{NORM}.bias", 32)),
    ("fused-inputs", fill(f"{Q}.input_zero_point", 5)),
    ("quantization-config", quantization("quantization_status", value="frozen")),
    ("attention-group", quantization("config_groups", "group_1", value={"targets": ["Linear"]})),
    ("attention-group", quantization("config_groups", "group_1", value={"targets": ["LlamaAttention"]})),
    ("embeddings", drop("model.embed_tokens.weight")),
    ("embeddings", drop("lm_head.weight")),
    ("format", edited(lambda export: setattr(export, "metadata", None))),
    ("weights", truncate),
    ("index", stale_index),
    ("layer-count", configure(num_hidden_layers=9)),
]
FLUX = "transformer_blocks.0.attn"
FLUX_Q = f"{FLUX}.to_q"


def one_row_per_token(*roles: str) -> Mutation:
    def mutation(export: Export) -> None:
        for name in (f"{FLUX}.fa_{role}" for role in roles):
            scale, offset = export.tensors[f"{name}.scale"], export.tensors[f"{name}.offset"]
            export.tensors[f"{name}.scale"], export.tensors[f"{name}.offset"] = (
                tensor.repeat(5, 1) for tensor in (scale, offset)
            )

    return edited(mutation)


def without_flux_attention(export: Export) -> None:
    drop(*(name for name in export.tensors if name.startswith(f"{FLUX}.fa_")))(export)


def float_flux_linear(export: Export) -> None:
    drop(f"{FLUX_Q}.weight_scale", f"{FLUX_Q}.weight_offset")(export)
    export.add(f"{FLUX_Q}.weight", export.tensors[f"{FLUX_Q}.weight"].bfloat16(), "FLOAT")
    export.save()


def extra_shard(export: Export) -> None:
    part = export.weights.replace(".safetensors", "-00001-of-00002.safetensors")
    save_file({}, export.folder / part)


MINDIE_SD = [
    ("description", unlink("quant_model_description_w8a8_dynamic.json")),
    ("weights", unlink("quant_model_weight_w8a8_dynamic.safetensors")),
    ("one-file", edited(lambda export: None, shards=2)),
    ("one-file", stale_index),
    ("one-file", extra_shard),
    ("config", configure(torch_dtype=None)),
    ("config", configure(attention_head_dim=0)),
    ("config", unlink("config.json")),
    ("foreign-tensors", add_described(f"{FLUX_Q}.input_scale", "W8A8_DYNAMIC", 1)),
    ("foreign-tensors", add_described(f"{FLUX_Q}.deq_scale", "W8A8_DYNAMIC", 32)),
    ("foreign-tensors", add_described(f"{FLUX}.norm_q.module.weight", "FLOAT", 8)),
    ("quant-types", describe(model_quant_type="W8A8")),
    ("quant-types", undescribe("model_quant_type")),
    ("quant-types", undescribe("fa_quant_type")),
    ("quant-types", describe(fa_quant_type=None)),
    ("quant-types", describe(kv_cache_type="C8")),
    ("described", undescribe(f"{FLUX}.norm_q.weight")),
    ("described", undescribe("scale_shift_table")),
    ("described", edited(lambda export: export.tensors.pop(f"{FLUX_Q}.bias"))),
    ("values", describe(**{f"{FLUX_Q}.weight_scale": "W8A8"})),
    ("values", describe(**{f"{FLUX_Q}.weight": "W8A8"})),
    ("values", describe(**{f"{FLUX}.fa_q.scale": "FLOAT"})),
    ("linears", drop(f"{FLUX_Q}.weight_offset")),
    ("linears", describe(**{f"{FLUX_Q}.weight": "FLOAT"})),
    ("attentions", drop(f"{FLUX}.fa_v.offset")),
    ("fa-shapes", change(f"{FLUX}.fa_q.scale", lambda scale: scale.flatten())),
    ("fa-heads", one_row_per_token("q", "k", "v")),
    ("fa-heads", one_row_per_token("q")),
    ("fa-heads", one_row_per_token("k", "v")),
    ("fa-heads", configure(num_attention_heads=8)),
    ("fa-heads", configure(attention_head_dim=16)),
    (
        "fa-heads",
        edited(lambda export: [export.config.pop("num_attention_heads"), one_row_per_token("q")(export)]),
    ),
    ("dtypes", change(f"{FLUX_Q}.weight_scale", lambda scale: scale.half())),
    ("dtypes", change(f"{FLUX}.fa_q.offset", lambda offset: offset.bfloat16())),
    ("linear-shapes", change(f"{FLUX_Q}.weight_scale", lambda scale: scale.flatten())),
    ("linear-shapes", change(f"{FLUX_Q}.bias", lambda bias: bias[:-1])),
    ("scale-a-row", edited(lambda export: one_dynamic_scale(export, FLUX_Q))),
    ("scales", fill(f"{FLUX_Q}.weight_scale", torch.nan)),
    ("scales", fill(f"{FLUX}.fa_k.scale", torch.inf)),
    ("offsets", fill(f"{FLUX_Q}.weight_offset", 1)),
    ("offsets", fill(f"{FLUX}.fa_v.offset", 1)),
    ("finite", fill("proj_out.weight", torch.nan)),
    ("weight-range", fill(f"{FLUX_Q}.weight", -128)),
    ("weights", cut),
]
TABLE = {
    "modelslim": FA3,
    "mindie": FA3 + MINDIE,
    "vllm-ascend": VLLM_ASCEND,
    "vllm": VLLM,
    "mindie-sd": MINDIE_SD,
}
ROWS = [(target, *row) for target, rows in TABLE.items() for row in rows]


def one_scale(export: Export, module: str) -> None:
    """Store one scale for all rows of a linear, as mm_tensor does."""
    scale = export.tensors[f"{module}.weight_scale"].amax(0)
    deq_scale = export.tensors[f"{module}.input_scale"].float() * scale.float()
    export.tensors[f"{module}.weight_scale"], export.tensors[f"{module}.weight_offset"] = scale, scale * 0
    export.tensors[f"{module}.deq_scale"] = deq_scale.repeat(len(export.tensors[f"{module}.deq_scale"]))


def one_dynamic_scale(export: Export, module: str) -> None:
    """Store one scale for all rows of a dynamic linear."""
    scale = export.tensors[f"{module}.weight_scale"].amax(0)
    export.tensors[f"{module}.weight_scale"], export.tensors[f"{module}.weight_offset"] = scale, scale * 0


def errors(folder: Path, target: str) -> set[tuple[str, str]]:
    return {(finding.check, finding.target) for finding in findings_of(folder, target) if finding.severity == "error"}


@pytest.mark.parametrize(
    ("target", "check", "mutation"),
    ROWS,
    ids=[f"{row[0]}-{row[1]}-{number}" for number, row in enumerate(ROWS)],
)
def test_a_mutation_fails_exactly_one_check(target: str, check: str, mutation: Mutation, tmp_path: Path) -> None:
    mutation(build_for(target, tmp_path))
    assert errors(tmp_path, target) == {(check, target)}


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not here")
@pytest.mark.parametrize(("check", "mutation"), FA3, ids=[f"{row[0]}-{number}" for number, row in enumerate(FA3)])
def test_a_mutation_of_a_reference_export_fails_exactly_one_check(
    check: str, mutation: Mutation, tmp_path: Path
) -> None:
    mutation(copy_golden("llama_float32_act1_amp0_L0", "llama_float32", tmp_path))
    assert errors(tmp_path, "modelslim") == {(check, "modelslim")}


@pytest.mark.parametrize("check", ["fused-groups", "fa-layers", "scale-a-row", "config-quantize"])
def test_errors_for_mindie_are_warnings_for_modelslim(check: str, tmp_path: Path) -> None:
    dict(MINDIE)[check](build_for("modelslim", tmp_path))
    findings = findings_of(tmp_path, "modelslim")
    assert {(finding.check, finding.severity) for finding in findings} == {(check, "warning")}


def silent(*keys: str) -> Mutation:
    return edited(lambda export: [export.config.pop(key) for key in keys])


@pytest.mark.parametrize(
    "mutation",
    [
        without_flux_attention,
        float_flux_linear,
        silent("num_attention_heads"),
        silent("attention_head_dim"),
        silent("num_attention_heads", "attention_head_dim"),
        configure(num_cross_attention_heads=2),
        configure(num_layers=9),
        lambda export: save_file({}, export.folder / "diffusion_pytorch_model.safetensors"),
        lambda export: save_file({}, export.folder / "quant_model_weight_w8a8.safetensors"),
    ],
)
def test_changes_that_mindie_sd_accepts_have_no_findings(mutation: Mutation, tmp_path: Path) -> None:
    """Single float modules, missing sizes in config.json, and files that MindIE-SD does not open."""
    mutation(build_for("mindie-sd", tmp_path))
    assert findings_of(tmp_path, "mindie-sd") == []


def test_k_and_v_may_have_fewer_heads(tmp_path: Path) -> None:
    export = build_for("mindie-sd", tmp_path)
    for name in [name for name in export.tensors if any(f"{FLUX}.{leaf}" in name for leaf in ("to_k", "to_v"))]:
        export.tensors[name] = export.tensors[name][:16].contiguous()
    for name in [name for name in export.tensors if any(f"{FLUX}.{leaf}" in name for leaf in ("fa_k", "fa_v"))]:
        export.tensors[name] = export.tensors[name][:2].contiguous()
    export.save()
    assert findings_of(tmp_path, "mindie-sd") == []
