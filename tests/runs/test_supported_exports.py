"""Tests the judge of exports, and a sample of the types in docs/supported-exports.md under two versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from fa3cli import api
from tests.export_files import WEIGHT_FILE
from tests.patching.matrix.environments import ROOT, command, run_types
from tests.runs.supported_exports.__main__ import kind_of, render
from tests.runs.supported_exports.judge import IDS, problems
from tests.sample_models import write_lines, write_model

SAMPLE = [
    "llama",
    "qwen2",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_neox",
    "falcon",
    "bart",
    "roberta",
    "granitemoe",
]
NAME = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float model and its export."""
    place = tmp_path_factory.mktemp("made")
    source = write_model(place / "source", patched=False, attention_bias=True)
    calib = write_lines(place / "calib.jsonl", IDS.tolist())
    return source, api.quantize(source, place / "export", calib=calib, recipe="default", fa=False).output


def test_the_judge_accepts_an_export(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, export = made
    assert list(problems(export, source, tmp_path / "dequantized")) == []


@pytest.mark.parametrize(
    ("leaf", "change", "told"),
    [
        ("weight", lambda tensor: tensor.flip(0), "by more than half a step"),
        ("weight_scale", lambda tensor: tensor.flip(0), "by more than half a step"),
        ("deq_scale", lambda tensor: tensor.flip(0), "is not input_scale"),
        ("quant_bias", lambda tensor: tensor + 3, "is not bias / deq_scale"),
    ],
)
def test_the_judge_finds_changed_tensors(
    leaf: str, change: Callable[[Tensor], Tensor], told: str, made: tuple[Path, Path], tmp_path: Path
) -> None:
    source, export = made
    shutil.copytree(export, tmp_path / "export")
    tensors = load_file(export / WEIGHT_FILE)
    tensors[f"{NAME}.{leaf}"] = change(tensors[f"{NAME}.{leaf}"]).contiguous()
    save_file(tensors, tmp_path / "export" / WEIGHT_FILE)
    assert any(told in problem for problem in problems(tmp_path / "export", source, tmp_path / "dequantized"))


def test_the_judge_finds_a_missing_tensor(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, export = made
    shutil.copytree(export, tmp_path / "export")
    tensors = load_file(export / WEIGHT_FILE)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "export" / WEIGHT_FILE)
    found = list(problems(tmp_path / "export", source, tmp_path / "dequantized"))
    assert "model.norm.weight is missing" in found and any("missing_keys" in problem for problem in found)


def test_the_page_counts_what_can_be_made() -> None:
    right = {"kind": "right", "why": "", "weights": {"W8A8": 3, "FLOAT": 2}}
    page = render({"5.0.0": {"a": right, "b": {"kind": "unmade", "why": "x"}, "c": {"kind": "refused", "why": "y|z"}}})
    assert "| 5.0.0 | 2 | 1 | 1 | 0 | 0 | 0 | 50.0% |" in page
    assert "| `a` | 3 + 0 + 2 |" in page and "- `c`, 5.0.0: refused: y\\|z" in page
    assert kind_of({"error": "it ended the process with code -6"}) == "traceback"


@pytest.mark.versions
@pytest.mark.parametrize("version", ["4.57.6", "5.23.0"])
def test_a_sample_of_types_is_right(version: str, tmp_path: Path) -> None:
    if not (ROOT / ".venvs" / version).exists():
        pytest.skip(f"no environment for transformers {version} (make versions)")
    call = command(version, "tests.runs.supported_exports.worker", tmp_path)
    run_types(call, SAMPLE, tmp_path, tmp_path / "log", lambda *_: None)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in SAMPLE}
    assert {name: result for name, result in found.items() if result.get("kind") != "right"} == {}
