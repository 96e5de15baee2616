"""Runs `fa3 verify` as a user does: exit codes and stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exports.exports import Export, build_export, build_for

ROOT = Path(__file__).parents[2]


def fa3_verify(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fa3cli", "verify", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return build_export(tmp_path)


def test_a_valid_export_exits_0(export: Export) -> None:
    run = fa3_verify(export.folder)
    assert run.returncode == 0, run.stderr
    assert "deq-scale" in run.stdout and "0 errors, " in run.stderr


def test_every_finding_has_one_line(export: Export) -> None:
    export.description["fa_quant_type"] = None
    export.drop("model.layers.0.self_attn.q_proj.weight_scale")
    export.save()
    run = fa3_verify(export.folder)
    assert run.returncode == 1
    lines = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in lines] == ["fa_quant_type", "model.layers.0.self_attn.q_proj"]
    assert "1 skipped" in run.stdout


def test_json_contains_findings_and_checks(export: Export) -> None:
    (export.folder / "config.json").write_text("{")
    run = fa3_verify(export.folder, "--json")
    report = json.loads(run.stdout)
    assert run.returncode == 1 and report["ok"] is False
    assert [finding["check"] for finding in report["findings"] if finding["severity"] == "error"] == ["config"]
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert (status["config"], status["config-sizes"], status["linears"]) == ("found", "not run", "passed")


def test_warnings_exit_0(export: Export) -> None:
    (export.folder / "tokenizer.json").unlink()
    run = fa3_verify(export.folder)
    assert run.returncode == 0
    assert "warning: tokenizer.json" in run.stdout


def test_no_export_exits_5(tmp_path: Path) -> None:
    run = fa3_verify(tmp_path)
    assert run.returncode == 5
    assert run.stdout == "" and str(tmp_path) in run.stderr and "hint: " in run.stderr
    assert "Traceback" not in run.stderr


def test_several_targets_are_verified(tmp_path: Path) -> None:
    export = build_for("mindie", tmp_path)
    del export.config["quantize"]
    export.save()
    assert fa3_verify(tmp_path, "--target", "modelslim").returncode == 0
    run = fa3_verify(tmp_path, "--target", "mindie", "--target", "modelslim", "--json")
    report = json.loads(run.stdout)
    assert run.returncode == 1 and report["target"] == "modelslim, mindie"
    assert {check["target"] for check in report["checks"]} == {"modelslim", "mindie"}
    run = fa3_verify(tmp_path, "--target", "mindie", "--target", "modelslim")
    assert "[mindie: config-quantize]" in run.stdout and "[modelslim: config-quantize]" in run.stdout


def test_an_unknown_target_exits_2(export: Export) -> None:
    assert fa3_verify(export.folder, "--target", "sglang").returncode == 2


def test_a_folder_of_several_exports_exits_5(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    run = fa3_verify(tmp_path)
    assert run.returncode == 5 and f"fa3 verify {tmp_path}/vllm" in run.stderr
