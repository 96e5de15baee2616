"""Tests that valid exports pass, and that a check which cannot run is not reported as passed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fa3cli.errors import InvalidInputError, UsageError
from fa3cli.exports.recognition import recognize_target
from fa3cli.exports.targets import TARGETS
from fa3cli.exports.verification import verify_export
from tests.exports.exports import (
    DESCRIPTION,
    GOLDEN,
    INDEX,
    NEW_DESCRIPTION,
    SMALL,
    WEIGHTS,
    Export,
    build_export,
    build_for,
    copy_golden,
    findings_of,
)

MANIFEST = GOLDEN / "MANIFEST.json"
CASES = json.loads(MANIFEST.read_text())["cases"] if MANIFEST.is_file() else []


@pytest.mark.skipif(not CASES, reason=f"{GOLDEN} is not here")
@pytest.mark.parametrize("name", [DESCRIPTION, NEW_DESCRIPTION])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_exports_pass(case: dict, name: str, tmp_path: Path) -> None:
    copy_golden(case["name"], case["model"], tmp_path)
    (tmp_path / DESCRIPTION).rename(tmp_path / name)
    report = verify_export(tmp_path, ["modelslim"])
    assert report.ok, report.findings
    assert all(check.status != "not run" for check in report.checks)
    # Golden cases have no tokenizer, and the float model's config.json; the other findings follow from their options.
    expected = {
        "tokenizer": True,
        "config-quantize": True,
        "description-name": name == DESCRIPTION,
        "tensor-parallel": False,
        "kernel-dtype": case["model"].endswith("float32"),
        "mindie-turbo": bool(case["fa_layers_exported"]),
        "fa-layers": len(case["fa_layers_exported"]) < 4,
        "fused-groups": _splits_a_group(case["rollback_names"]),
        "deq-scale": case["model"] == "llama_float16",
    }
    assert {finding.check for finding in report.findings} == {name for name, found in expected.items() if found}


def _splits_a_group(float_linears: list[str]) -> bool:
    groups = [("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")]
    return any(
        0 < sum(f"model.layers.{layer}.{name}" in float_linears for name in group) < len(group)
        for layer in range(4)
        for group in groups
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_valid_export_has_no_findings(dtype: torch.dtype, shards: int, tmp_path: Path) -> None:
    build_export(tmp_path, dtype).save(shards)
    report = verify_export(tmp_path)
    assert report.ok
    assert {finding.check for finding in report.findings} <= SMALL
    assert {check.status for check in report.checks if check.name not in SMALL} == {"passed"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shards", [1, 3])
def test_an_export_for_a_target_is_recognised_and_valid(target: str, shards: int, tmp_path: Path) -> None:
    export = build_for(target, tmp_path)
    (tmp_path / export.weights).unlink()
    export.save(shards if TARGETS[target].sharded else 1)
    report = verify_export(tmp_path, [target])
    assert {finding.check for finding in report.findings} <= SMALL, report.findings
    assert all(check.status != "not run" for check in report.checks)
    assert verify_export(tmp_path).target == ("modelslim" if target == "mindie" else target)


def test_a_finding_about_all_linears_is_reported_once(tmp_path: Path) -> None:
    export = build_for("vllm", tmp_path, torch.float32)
    for name in [name for name in export.tensors if name.endswith(".input_scale")]:
        export.tensors[name] = torch.tensor([0.1])
    export.save()
    [finding] = findings_of(tmp_path, "vllm")
    assert (finding.check, finding.severity) == ("scale-bits", "warning") and "11 others" in finding.message


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    build_export(tmp_path, tied=True)
    assert {finding.check for finding in verify_export(tmp_path).findings} <= SMALL


def test_all_findings_are_reported(export: Export) -> None:
    export.tensors["model.norm.weight"][3] = torch.nan
    export.tensors["model.layers.0.self_attn.fa_k.scale"][0] = 0
    export.description["model.layers.1.mlp.down_proj.weight"] = "W4A8"
    export.save()
    assert {finding.check for finding in verify_export(export.folder).findings} >= {
        "finite",
        "scales",
        "values",
    }


def test_checks_with_failed_requirements_are_not_run(export: Export) -> None:
    (export.folder / "config.json").unlink()
    report = verify_export(export.folder)
    checks = {check.name: check for check in report.checks}
    assert checks["config-sizes"].status == "not run" and checks["config-sizes"].blocked_by == ("config",)
    assert checks["linears"].status == "passed"


def test_a_broken_module_is_skipped_by_later_checks(export: Export) -> None:
    export.drop("model.layers.0.self_attn.q_proj.weight_scale")
    export.save()
    report = verify_export(export.folder)
    deq_scale = next(check for check in report.checks if check.name == "deq-scale")
    assert deq_scale.status == "passed" and deq_scale.skipped == 1
    assert {finding.check for finding in report.findings if finding.severity == "error"} == {"linears"}


def test_a_report_with_only_warnings_is_ok(export: Export) -> None:
    for name in [name for name in export.tensors if "layers.1.self_attn.fa_" in name]:
        export.drop(name)
    export.save()
    report = verify_export(export.folder)
    assert report.ok and "fa-layers" in {finding.check for finding in report.findings}


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no such folder"):
        verify_export(tmp_path / "nowhere")


def test_a_folder_without_an_export_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="holds no export"):
        verify_export(tmp_path)


def test_an_error_names_the_exports_in_subfolders(tmp_path: Path) -> None:
    for name in ("vllm", "mindie"):
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInputError, match="each of mindie, vllm"):
        verify_export(tmp_path)


def test_one_report_covers_several_targets(tmp_path: Path) -> None:
    export = build_for("mindie", tmp_path)
    del export.config["quantize"]
    export.save()
    report = verify_export(tmp_path, ["mindie", "modelslim"])
    assert report.target == "modelslim, mindie" and not report.ok
    assert {check.target for check in report.checks} == {"modelslim", "mindie"}
    severities = {finding.target: finding.severity for finding in report.findings if finding.check == "config-quantize"}
    assert severities == {"modelslim": "warning", "mindie": "error"}


def test_an_unknown_target_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sglang"):
        verify_export(tmp_path, ["sglang"])


@pytest.mark.parametrize(
    ("target", "made_for"),
    [
        ("mindie", "vllm"),
        ("vllm", "mindie"),
        ("mindie-sd", "modelslim"),
        ("mindie-sd", "vllm"),
    ],
)
def test_an_export_for_another_target_is_an_error(target: str, made_for: str, tmp_path: Path) -> None:
    build_for(made_for, tmp_path)
    with pytest.raises(InvalidInputError, match=f"no export for target {target}"):
        verify_export(tmp_path, [target])


def test_an_export_with_only_numpy_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "quant_weight.npy").touch()
    with pytest.raises(InvalidInputError, match="only a numpy export"):
        verify_export(tmp_path)


@pytest.mark.parametrize("file", [WEIGHTS, DESCRIPTION, INDEX, "config.json"])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"\xff" * 4096,
        b"\x02" + b"\0" * 7 + b"{}",
        b"[" * 5000,
        b'{"weight_map": 3}',
        b"{}",
    ],
)
def test_broken_files_are_findings(export: Export, file: str, text: bytes) -> None:
    (export.folder / file).write_bytes(text)
    report = verify_export(export.folder)
    assert not report.ok
    assert all(finding.message for finding in report.findings)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
CONFIG_KEYS = [
    *("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_nextn_predict_layers"),
    *("num_hidden_layers", "intermediate_size", "vocab_size", "torch_dtype", "dtype", "auto_map"),
    *(
        "quantization_config",
        "text_config",
        "architectures",
        "tie_word_embeddings",
        "kv_lora_rank",
        "quantize",
    ),
    *("model_type",),
]
DESCRIPTION_KEYS = [
    *(
        "model_quant_type",
        "fa_quant_type",
        "kv_cache_type",
        "group_size",
        "reduce_quant_type",
        "lm_head.weight",
    ),
    *(
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.fa_q.scale",
        "\ud800\x1b[31m.weight",
    ),
]
QUANTIZATION_KEYS = [
    *("quant_method", "format", "quantization_status", "config_groups", "ignore", "kv_cache_scheme"),
]
GROUP_KEYS = ["targets", "weights", "input_activations", "group_1"]


@pytest.fixture(scope="module", params=TARGETS)
def sharded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = build_for(request.param, tmp_path_factory.mktemp("sharded"))
    (export.folder / export.weights).unlink()
    export.save(shards=2)
    (export.folder / "fa3_report.json").write_text(json.dumps({"target": request.param}))
    (export.folder / "tokenizer_config.json").write_text("{}")
    return export.folder


def places(folder: Path) -> dict[Path, list[list[str]]]:
    """Return the entries to change, as lists of keys, per file."""
    [index] = folder.glob("*.index.json")
    found = {
        index: [["weight_map"], ["metadata"], ["weight_map", "model.norm.weight"]],
        folder / "config.json": [[key] for key in CONFIG_KEYS]
        + [["quantization_config", key] for key in QUANTIZATION_KEYS]
        + [["quantization_config", "config_groups", "group_0", key] for key in GROUP_KEYS]
        + [["quantization_config", "config_groups", "group_0", "weights", "strategy"]]
        + [["quantization_config", "kv_cache_scheme", "strategy"]],
        folder / "fa3_report.json": [["target"]],
        folder / "tokenizer_config.json": [["auto_map"]],
    }
    return found | {file: [[key] for key in DESCRIPTION_KEYS] for file in folder.glob("*description*")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_value_gives_a_report(sharded: Path, data: st.DataObject) -> None:
    file, paths = data.draw(st.sampled_from(sorted(places(sharded).items())))
    *parents, key = data.draw(st.sampled_from(paths))
    before = file.read_text()
    content = place = json.loads(before)
    for part in parents:
        place = place.setdefault(part, {})
    place[key] = data.draw(JSON)
    file.write_text(json.dumps(content))
    try:
        reports = [verify_export(sharded), verify_export(sharded, [recognize_target(sharded).name])]
    finally:
        file.write_text(before)
    for report in reports:
        json.dumps(asdict(report))
        assert all(f"{finding.subject}{finding.message}".isprintable() for finding in report.findings)


DTYPES = [
    torch.int8,
    torch.uint8,
    torch.float8_e4m3fn,
    torch.bool,
    torch.int64,
    torch.bfloat16,
    torch.float64,
]
CHANGES = {
    "drop": lambda tensor, _: None,
    "empty": lambda tensor, _: tensor[:0],
    "scalar": lambda tensor, _: tensor.reshape(-1)[0].clone(),
    "flat": lambda tensor, _: tensor.reshape(-1),
    "deep": lambda tensor, _: tensor[None, ..., None],
    "half": lambda tensor, _: tensor[::2].contiguous(),
    "cast": lambda tensor, dtype: tensor.to(dtype),
    "nan": lambda tensor, _: (tensor.double() * torch.nan).to(tensor.dtype),
}


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_tensor_gives_a_report(
    target: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    export = build_for(target, tmp_path_factory.mktemp("spoilt"))
    names = st.sampled_from(sorted(export.tensors))
    for name in data.draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        change = CHANGES[data.draw(st.sampled_from(sorted(CHANGES)))]
        export.tensors[name] = change(export.tensors[name], data.draw(st.sampled_from(DTYPES)))
        if data.draw(st.booleans()):
            export.description.pop(name, None)
    export.tensors = {name: tensor for name, tensor in export.tensors.items() if tensor is not None}
    export.save()
    report = verify_export(export.folder, [target])
    assert all(finding.message for finding in report.findings)
