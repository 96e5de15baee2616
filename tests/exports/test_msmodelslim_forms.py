"""Tests that the forms of msModelSlim's newer saver are valid, and that one fault in them is one finding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fa3cli.exports.recognition import recognize_target
from tests.exports.exports import Export, edited, findings_of
from tests.exports.msmodelslim_forms import FORMS, WEIGHTS, ascendv1
from tests.exports.test_mutations import Mutation, change, describe, drop, fill, undescribe

ATTENTION = "model.layers.0.self_attn"
Q, K, UP = f"{ATTENTION}.q_proj", f"{ATTENTION}.k_proj", "model.layers.0.mlp.up_proj"
# config.json is the float model's, so it has no `quantize`; MindIE needs it.
FLOAT_CONFIG = {("config-quantize", "warning")}


def found(folder: Path, target: str) -> set[tuple[str, str]]:
    return {(finding.check, finding.severity) for finding in findings_of(folder, target)} - FLOAT_CONFIG


@pytest.mark.parametrize("target", ["modelslim", "vllm-ascend"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "C8"])
@pytest.mark.parametrize("shards", [1, 2])
def test_forms_of_ascendv1_are_valid(form: str, target: str, shards: int, tmp_path: Path) -> None:
    ascendv1(tmp_path, form, shards=shards)
    assert recognize_target(tmp_path).name == "modelslim"
    assert found(tmp_path, target) == set()


@pytest.mark.parametrize("form", ["W8A8", "W8A8_DYNAMIC", "W8A8_MIX"])
def test_forms_of_ascendv1_are_valid_in_float16(form: str, tmp_path: Path) -> None:
    ascendv1(tmp_path, form, torch.float16)
    assert found(tmp_path, "vllm-ascend") == set()


def test_an_int8_kv_cache_of_ascendv1_is_valid_for_vllm_ascend(tmp_path: Path) -> None:
    export = ascendv1(tmp_path, "C8")
    assert recognize_target(tmp_path).name == "vllm-ascend"
    assert export.tensors[f"{K}.kv_cache_scale"].dtype == torch.float32
    assert found(tmp_path, "vllm-ascend") == set()


def test_shards_without_the_s_in_their_names_are_those_of_mindie_format(tmp_path: Path) -> None:
    export = ascendv1(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    export.weights = "quant_model_weight.safetensors"
    export.save(shards=2)
    assert found(tmp_path, "modelslim") == set()


def test_linears_lack_the_scale_of_the_weight_all_or_none(tmp_path: Path) -> None:
    export = ascendv1(tmp_path)
    export.add(f"{Q}.weight_scale", torch.ones(32, 1), "W8A8")
    export.add(f"{Q}.weight_offset", torch.zeros(32, 1), "W8A8")
    export.save()
    assert {finding.check for finding in findings_of(tmp_path, "vllm-ascend")} == {"linears", "deq-scale"}


def test_an_int8_weight_of_minus_128_is_usual_where_weights_are_rounded_in_bfloat16(tmp_path: Path) -> None:
    fill(f"{UP}.weight", -128)(ascendv1(tmp_path, "W8A8_DYNAMIC"))
    assert found(tmp_path, "modelslim") == set()


def test_quant_bias_may_be_rounded_in_the_dtype_of_the_model(tmp_path: Path) -> None:
    def with_bias(export: Export, precision: torch.dtype) -> None:
        bias = torch.full((32,), 30.0)
        deq_scale, shift = export.tensors[f"{Q}.deq_scale"], export.tensors[f"{Q}.weight"].sum(1) * 3
        quotient = (bias.to(precision) / deq_scale.to(precision)).float()
        export.add(f"{Q}.bias", bias, "FLOAT")
        export.tensors[f"{Q}.quant_bias"] = (quotient + shift).round().int()

    export = ascendv1(tmp_path)
    deq_scale = export.tensors[f"{Q}.deq_scale"]
    export.tensors[f"{Q}.deq_scale"] = deq_scale.bfloat16().float()
    edited(lambda export: with_bias(export, torch.bfloat16))(export)
    assert found(tmp_path, "modelslim") == set()
    edited(lambda export: export.tensors[f"{Q}.quant_bias"].add_(20))(export)
    assert found(tmp_path, "modelslim") == {("quant-bias", "error")}


def foreign(export: Export) -> None:
    export.add(f"{ATTENTION}.fa_q.scale", torch.ones(4, 1), "FAQuant")


# form, check, mutation
FAULTS: list[tuple[str, str, Mutation]] = [
    ("W8A8", "linears", drop(f"{Q}.deq_scale")),
    ("W8A8", "linears", drop(f"{Q}.input_offset")),
    ("W8A8", "deq-scale", fill(f"{Q}.deq_scale", torch.nan)),
    ("W8A8", "deq-scale", fill(f"{Q}.deq_scale", -1)),
    ("W8A8", "dtypes", change(f"{Q}.input_scale", lambda scale: scale.half())),
    ("W8A8", "dtypes", change(f"{Q}.deq_scale", lambda scale: scale.view(torch.int32).long())),
    ("W8A8", "quant-types", describe(model_quant_type="W8A8_DYNAMIC")),
    ("W8A8", "quant-types", describe(fa_quant_type="FAKQuant")),
    ("W8A8", "quant-types", describe(**{f"{ATTENTION}.quant_type": "INT8"})),
    ("W8A8", "quant-types", describe(**{f"{ATTENTION}.indexer.quant_type": "FP8_DYNAMIC"})),
    ("W8A8", "quant-types", describe(indexer_quant_type="INT8")),
    ("W8A8", "values", describe(**{f"{Q}.deq_scale": {}})),
    ("W8A8_DYNAMIC", "linears", drop(f"{Q}.weight_scale")),
    ("W8A8_DYNAMIC", "linears", drop(f"{Q}.weight_scale", f"{Q}.weight_offset")),
    ("W8A8_DYNAMIC", "foreign-tensors", edited(foreign)),
    ("W8A8_DYNAMIC", "scales", fill(f"{UP}.weight_scale", 0)),
    ("W8A8_DYNAMIC", "dtypes", change(f"{Q}.weight_scale", lambda scale: scale.half())),
    ("W8A8_DYNAMIC", "linear-shapes", change(f"{Q}.weight_scale", lambda scale: scale.repeat(1, 2))),
    ("W8A8_MIX", "linears", drop(f"{Q}.weight_scale", f"{Q}.weight_offset")),
    ("W8A8_MIX", "deq-scale", change(f"{Q}.deq_scale", lambda scale: scale * 2)),
    ("mixed", "quant-types", describe(model_quant_type="W8A8_MIX")),
    ("FAKQuant", "attentions", drop(f"{ATTENTION}.fa_v.offset")),
    ("FAKQuant", "fa-shapes", change(f"{ATTENTION}.fa_q.scale", lambda scale: scale[:2])),
    ("FAKQuant", "fa-shapes", change(f"{ATTENTION}.fa_k.scale", lambda scale: scale.repeat(2, 1))),
    ("FAKQuant", "dtypes", change(f"{ATTENTION}.fa_k.offset", lambda offset: offset.float())),
    ("FAKQuant", "scales", fill(f"{ATTENTION}.fa_k.scale", 0)),
    ("FAKQuant", "offsets", fill(f"{ATTENTION}.fa_q.offset", 1)),
    ("FAKQuant", "values", describe(**{f"{ATTENTION}.fa_k.scale": "FAKQuant"})),
    ("FAKQuant", "quant-types", undescribe("fa_quant_type")),
    ("FAKQuant", "quant-types", describe(fa_quant_type=None)),
    ("FAKQuant", "quant-types", describe(**{f"{ATTENTION}.quant_type": "FP8"})),
    ("FAKQuant", "quant-types", describe(**{f"{ATTENTION}.quant_type": 8})),
    ("FAKQuant", "described", undescribe(f"{ATTENTION}.fa_q.scale")),
    ("C8", "kv-shapes", change(f"{K}.kv_cache_scale", lambda scale: scale[::8])),
    ("C8", "offsets", fill(f"{K}.kv_cache_offset", 1)),
    ("C8", "dtypes", change(f"{K}.kv_cache_scale", lambda scale: scale.half())),
    ("C8", "quant-types", describe(model_quant_type="W8A8_MIX")),
    ("C8", "foreign-tensors", edited(foreign)),
]


@pytest.mark.parametrize(
    ("form", "check", "mutation"),
    FAULTS,
    ids=[f"{row[0]}-{row[1]}-{number}" for number, row in enumerate(FAULTS)],
)
def test_a_fault_in_a_form_of_ascendv1_is_found_by_one_check(
    form: str, check: str, mutation: Mutation, tmp_path: Path
) -> None:
    mutation(ascendv1(tmp_path, form))
    findings = [finding for finding in findings_of(tmp_path, "vllm-ascend") if finding.severity == "error"]
    assert {finding.check for finding in findings} == {check}, findings


def test_the_index_of_shards_is_required(tmp_path: Path) -> None:
    ascendv1(tmp_path, shards=2)
    (tmp_path / f"{WEIGHTS}.index.json").unlink()
    assert found(tmp_path, "modelslim") == {("index", "error")}


def test_fakquant_is_for_latent_attention_only(tmp_path: Path) -> None:
    export = ascendv1(tmp_path, "FAKQuant")
    del export.config["kv_lora_rank"]
    edited(lambda export: None)(export)
    assert ("quant-types", "error") in found(tmp_path, "modelslim")
    assert ("foreign-tensors", "error") in found(tmp_path, "vllm-ascend")
