"""Runs `fa3 calibrate` and `fa3 export` as a user does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sample_models import snapshot, token_ids, write_lines, write_model

Fa3 = Callable[..., tuple[int, str, str]]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


@pytest.fixture
def kept(llama: Path, fa3: Fa3, tmp_path: Path) -> Path:
    """Calibrate the model and return the folder."""
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(9, 17, 5))
    code, out, err = fa3("calibrate", llama, "--calib", calib, "--output", tmp_path / "kept")
    assert code == 0 and "model.layers.2" in out and "settings:" in err
    return tmp_path / "kept"


def test_calibrate_needs_an_output(llama: Path, fa3: Fa3) -> None:
    code, _, err = fa3("calibrate", llama)
    assert code == 2 and "--output" in err


def test_calibrate_plans_no_export(llama: Path, fa3: Fa3, tmp_path: Path) -> None:
    calib, plans = write_lines(tmp_path / "calib.jsonl", token_ids(9, 17)), {}
    for command in ("calibrate", "quantize"):
        code, out, _ = fa3(command, llama, "--output", tmp_path / "out", "--calib", calib, "--plan", "--json")
        assert code == 0
        plans[command] = json.loads(out)
    assert 0 < plans["calibrate"]["bytes_written"] < plans["quantize"]["bytes_written"]
    assert plans["calibrate"]["warnings"] == []
    assert not (tmp_path / "out").exists()


def test_export_writes_one_or_several_targets(llama: Path, kept: Path, fa3: Fa3, tmp_path: Path) -> None:
    code, out, err = fa3("export", llama, "--calibration", kept)
    output = llama.with_name(f"{llama.name}-w8a8-fa3")
    assert code == 0 and "model.layers.2" in out and "targets: modelslim" in err
    assert (output / "quant_model_weight_w8a8.safetensors").is_file()
    assert "serve: no engine reads this export\n" in out  # in float32
    options = ["--target", "vllm", "--target", "modelslim", "--output", tmp_path / "two", "--json"]
    code, out, _ = fa3("export", llama, "--calibration", kept, *options)
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and events[-1]["event"] == "result" and events[0]["event"] == "progress"
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"vllm", "modelslim"}
    assert set(events[-1]["files"]) < snapshot(tmp_path / "two").keys()
    assert events[-1]["serve"] == {"vllm": f"vllm serve {tmp_path / 'two' / 'vllm'}", "modelslim": None}
    code, out, err = fa3("export", llama, "--calibration", kept, *options[:-1])
    assert (code, out) == (0, "") and "nothing to do" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ("--calibration",)),
        (["--calibration", "nowhere"], 5, ("nowhere", "fa3 calibrate")),
        (["--calibration", "kept", "--target", "vllm", "--save-type", "numpy"], 3, ("numpy", "safe_tensor")),
        (["--calibration", "kept", "--output", "."], 4, ("already holds",)),
    ],
)
def test_errors_exit_with_their_codes(
    arguments: list[str],
    code: int,
    words: tuple[str, ...],
    llama: Path,
    kept: Path,
    fa3: Fa3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(kept.parent)
    before = snapshot(kept.parent)
    found, out, err = fa3("export", llama, *arguments)
    assert (found, out) == (code, "")
    assert all(word in err for word in words)
    assert snapshot(kept.parent) == before


def test_other_weights_are_a_conflict(kept: Path, fa3: Fa3, tmp_path: Path) -> None:
    other = write_model(tmp_path / f"other-{tmp_path.name}", vocab_size=100)
    code, _, err = fa3("export", other, "--calibration", kept)
    assert code == 4 and "different weights, config" in err
