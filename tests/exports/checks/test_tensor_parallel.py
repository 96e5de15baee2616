"""Tests the warnings about numbers of devices and kernels: each names its target, an engine with its version, and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.exports.verification import Finding, verify_export
from tests.exports.exports import build_export, build_for

# 4 attention heads, 2 KV heads, head_dim 8.
HEADS, FEW, DIM = "4 attention heads at tensor parallel 8", "2 KV heads at tensor parallel 4, 8", "head_dim is 8"
EXPECTED = {
    "modelslim": [
        ("tensor-parallel", HEADS, "MindIE-LLM 3.0"),
        ("mindie-turbo", DIM, "mindie-turbo 2.0rc1"),
        ("mindie-turbo", FEW, "mindie-turbo 2.0rc1"),
    ],
    "vllm-ascend": [("tensor-parallel", HEADS, "vLLM-Ascend 0.26rc1"), ("kv-kernels", DIM, "vLLM-Ascend")],
    "vllm": [("tensor-parallel", HEADS, "vLLM 0.32")],
}
CHECKS = {"tensor-parallel", "mindie-turbo", "kv-kernels"}


def findings(folder: Path, target: str) -> list[Finding]:
    return [finding for finding in verify_export(folder, [target]).findings if finding.check in CHECKS]


@pytest.mark.parametrize("target", ["modelslim", "mindie", "vllm-ascend", "vllm", "mindie-sd"])
def test_findings_name_target_engine_and_sizes(target: str, tmp_path: Path) -> None:
    build_for(target, tmp_path)
    found = findings(tmp_path, target)
    expected = EXPECTED.get({"mindie": "modelslim"}.get(target, target), [])
    assert len(found) == len(expected)
    for finding, (check, case, engine) in zip(found, expected):
        assert (finding.target, finding.check, finding.severity) == (target, check, "warning")
        assert finding.message.startswith(f"{case}; {engine}")


def test_without_fa3_only_the_linears_count(tmp_path: Path) -> None:
    export = build_export(tmp_path)
    export.drop(*(name for name in export.tensors if ".fa_" in name))
    del export.description["fa_quant_type"]
    export.save()
    [finding] = findings(tmp_path, "modelslim")
    assert finding.message.startswith(f"{HEADS}; vLLM-Ascend 0.26rc1")


@pytest.mark.parametrize("target", ["modelslim", "vllm-ascend"])
def test_channels_of_the_mlp_are_counted_if_the_engine_does_not_pad_them(target: str, tmp_path: Path) -> None:
    export = build_for(target, tmp_path)
    export.config["intermediate_size"] = 50
    export.save()
    case = "50 channels of the MLP at tensor parallel 4, 8"
    named = [finding for finding in findings(tmp_path, target) if finding.message.startswith(case)]
    assert bool(named) == (target == "vllm-ascend")
