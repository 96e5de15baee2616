"""Runs the example scripts as a user does."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fa3cli
from fa3cli.exports.layout import FA_TENSORS
from tests.conftest import EXAMPLES, ROOT
from tests.sample_models import write_model

QUESTIONS = [
    {"title": "Locust", "passage": "The locusts have no king.", "question": "do the locusts have a king"},
    {"inputs_pretokenized": "The ear that heareth the reproof of life abideth among the wise."},
]


def run(script: str, model: Path, output: Path, *options: object) -> str:
    """Run a script on two questions; return its stderr."""
    calib = output.with_suffix(".jsonl")
    calib.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS), encoding="utf-8")
    arguments = ["--model-path", model, "--save-directory", output, "--calib-file", calib, *options]
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def exported(output: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of an export, from one file or several, and its description."""
    tensors: dict[str, Tensor] = {}
    for file in output.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors, json.loads((output / "quant_model_description.json").read_text())


def float_linears(tensors: dict[str, Tensor]) -> set[str]:
    names = [name.removesuffix(".weight") for name in tensors if name.endswith("proj.weight")]
    return {name for name in names if tensors[f"{name}.weight"].dtype != torch.int8}


def attentions(tensors: dict[str, Tensor]) -> set[str]:
    """Return the attention modules that have all FA3 parameters."""
    found = {name.partition(".fa_")[0] for name in tensors if ".fa_" in name}
    return {name for name in found if all(f"{name}.{leaf}" in tensors for leaf in FA_TENSORS)}


def downs(layers: int) -> set[str]:
    return {f"model.layers.{index}.mlp.down_proj" for index in range(layers)}


def test_quant_qwen_makes_a_valid_export(qwen2_tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    log = run("quant_qwen.py", qwen2_tiny, output)
    assert "calibrated 4/4 layers" in log
    tensors, description = exported(output)
    assert fa3cli.verify(output).ok
    assert description["fa_quant_type"] == "FAQuant"
    assert float_linears(tensors) == downs(4)
    assert attentions(tensors) == {f"model.layers.{index}.self_attn" for index in range(4)}
    assert not [name for name in tensors if ".module." in name]
    assert (output / "tokenizer.json").is_file()


def test_quant_llama_smooths_and_makes_a_valid_export(tmp_path: Path) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", vocab_size=2048, max_position_embeddings=256)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(EXAMPLES / "qwen2-tiny" / file, folder)
    output = tmp_path / "out"
    log = run("quant_llama.py", folder, output, "--part-file-size", "0.0004", "--dev-type", "cpu")
    assert "AntiOutlier m3: 3 decoder layers smoothed" in log
    tensors, _ = exported(output)
    assert fa3cli.verify(output).ok
    assert len(list(output.glob("*.safetensors"))) > 1
    fallen = float_linears(tensors) - downs(3)
    assert downs(3) <= float_linears(tensors)
    assert len(fallen) >= 5  # disable_level, whole groups of fused linears
    assert len(attentions(tensors)) == 3
    assert "model.layers.0.input_layernorm.module.weight" in tensors


def smoke(folder: Path, steps: str) -> tuple[int, str]:
    """Run these steps of npu_smoke.sh on the CPU; return its exit code and its report."""
    settings = {
        "DEVICE": "cpu",
        "DTYPES": "bfloat16",
        "SAMPLES": "2",
        "STEPS": steps,
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        ["bash", EXAMPLES / "npu_smoke.sh"],
        cwd=folder,
        env={
            **os.environ,
            **settings,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    (report,) = folder.iterdir()  # the script removes its working folder
    assert report.name.startswith("npu_smoke_") and done.stderr == ""
    return done.returncode, report.read_text()


def test_npu_smoke_passes_on_the_cpu(tmp_path: Path) -> None:
    code, report = smoke(tmp_path, "patch cpu device compare")
    assert code == 0, report
    assert report.count("---- passed: exit 0") == 4 and "all passed" in report
    assert "the same names, dtypes and shapes" in report and "0.000% differ" in report


def test_npu_smoke_continues_after_a_failed_step(tmp_path: Path) -> None:
    """The cpu step fails since the patch step did not run."""
    code, report = smoke(tmp_path, "cpu compare doctor")
    assert code == 1
    assert report.count("---- FAILED: exit 5") == 1 and report.count("---- FAILED: exit 1") == 1
    assert "run fa3 patch" in report and "---- passed: exit 0" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "3 tensors; the same names"),
        ({"a.input_scale": torch.tensor([1.05])}, "the same names"),
        ({"a.input_scale": torch.tensor([1.2])}, "input_scale: a scale differs relatively by 0.167"),
        ({"a.input_scale": torch.tensor([torch.nan])}, "not finite"),
        ({"a.input_scale": torch.ones(1).half()}, "a.input_scale: (torch.float32, (1,)) and (torch.float16"),
        ({"a.weight": torch.zeros(3, 3, dtype=torch.int8)}, "int8 weight: 11.111% differ"),
        (
            {"a.deq_scale": torch.tensor([2.0]).view(torch.int32).long()},
            "deq_scale: a scale differs relatively by 0.5",
        ),
        ({"b.weight": torch.ones(1)}, "only in one of them: b.weight"),
    ],
)
def test_compare_exports_names_the_differences(
    change: dict[str, Tensor],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    weight = torch.zeros(3, 3, dtype=torch.int8)
    weight[1, 1] = 5
    packed = torch.ones(1).view(torch.int32).long()
    tensors = {"a.weight": weight, "a.input_scale": torch.ones(1), "a.deq_scale": packed}
    for name, held in (("one", tensors), ("other", tensors | change)):
        (tmp_path / name).mkdir()
        save_file(held, tmp_path / name / "model.safetensors")
    monkeypatch.setattr(sys, "argv", ["compare_exports.py", str(tmp_path / "one"), str(tmp_path / "other")])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(EXAMPLES / "compare_exports.py"), run_name="__main__")
    assert bool(done.value.code) == ("the same names" not in message)
    assert message in capsys.readouterr().out
