"""Tests when a run has nothing to do, and when it must refuse an existing folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli import api
from fa3cli.errors import ConflictError
from fa3cli.runs.identity import differing
from tests.export_files import WEIGHT_FILE
from tests.sample_models import edit_config, edit_weights, snapshot

REPORT = "fa3_report.json"


def quantize(folder: Path, calib: Path, **options: Any) -> Path:
    output = folder.parent / "out"
    assert api.quantize(folder, calib=calib, output=output, **options) is not None
    return output


def test_a_second_run_has_nothing_to_do(llama: Path, calib: Path) -> None:
    output = quantize(llama, calib)
    before = {file: file.stat().st_mtime_ns for file in output.iterdir()}
    assert api.quantize(llama, calib=calib, output=output).already_there
    assert {file: file.stat().st_mtime_ns for file in output.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"fa_amp": 1}, "settings.fa_amp (0, now 1)"),
        ({"disable_names": ("*.up_proj",)}, "settings.disable_names (['*.down_proj'], now ['*.up_proj'])"),
        ({"samples": 1}, "calibration"),
        ({"max_length": 4}, "calibration"),
        ({"dtype": "bfloat16"}, "dtype (torch.float32, now torch.bfloat16)"),
        ({"attn_implementation": "eager"}, "attn_implementation (sdpa, now eager)"),
        ({"save_types": ["numpy"]}, "save_types (['safe_tensor'], now ['numpy'])"),
        ({"part_file_size": 1.0}, "part_bytes"),
    ],
)
def test_other_options_are_a_conflict_that_names_the_field(
    llama: Path, calib: Path, options: dict[str, Any], field: str
) -> None:
    output = quantize(llama, calib)
    before = snapshot(output)
    with pytest.raises(ConflictError, match=f"made from other {re.escape(field)}$"):
        api.quantize(llama, calib=calib, output=output, **options)
    assert snapshot(output) == before


def test_other_weights_of_the_same_shape_are_a_conflict(llama: Path, calib: Path) -> None:
    output = quantize(llama, calib)
    edit_weights(llama, lambda tensors: [tensor.mul_(0.5) for tensor in tensors.values()])
    with pytest.raises(ConflictError, match="made from other weights$"):
        api.quantize(llama, calib=calib, output=output)


def test_another_config_is_a_conflict(llama: Path, calib: Path) -> None:
    output = quantize(llama, calib, fa=False)
    edit_config(llama, rms_norm_eps=1e-3)
    with pytest.raises(ConflictError, match="made from other config"):
        api.quantize(llama, calib=calib, output=output, fa=False)


def test_a_copy_of_the_folder_has_the_same_identity(llama: Path, calib: Path) -> None:
    output = quantize(llama, calib)
    moved = Path(shutil.copytree(llama, llama.with_name(f"{llama.name}-copy")))
    assert api.quantize(moved, calib=calib, output=output).already_there


@pytest.mark.parametrize("lost", [WEIGHT_FILE, "quant_model_description.json", "config.json"])
def test_an_export_with_a_missing_file_is_a_conflict(llama: Path, calib: Path, lost: str) -> None:
    output = quantize(llama, calib)
    (output / lost).unlink()
    with pytest.raises(ConflictError):
        api.quantize(llama, calib=calib, output=output)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"identity": 1}', '{"identity": {}}'])
def test_an_invalid_report_is_a_conflict(llama: Path, calib: Path, text: str) -> None:
    output = quantize(llama, calib)
    (output / REPORT).write_text(text)
    with pytest.raises(ConflictError):
        api.quantize(llama, calib=calib, output=output)


# ---- differences

leaves = st.none() | st.integers(-3, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2)
identities = st.dictionaries(st.sampled_from("abc"), leaves | st.dictionaries(st.sampled_from("xy"), leaves))


@given(before=identities, now=identities)
def test_differing_names_each_field_that_differs_and_no_other(before: dict[str, Any], now: dict[str, Any]) -> None:
    expected = set()
    for field in before.keys() | now.keys():
        old, new = before.get(field), now.get(field)
        if isinstance(old, dict) and isinstance(new, dict):
            within = old.keys() | new.keys()
            expected |= {f"{field}.{name}" for name in within if old.get(name) != new.get(name)}
        elif old != new:
            expected.add(field)
    names = differing(before, now)
    assert {name.partition(" ")[0] for name in names} == expected and len(names) == len(expected)


def test_differing_says_values_but_no_hashes() -> None:
    before = {"weights": "a" * 64, "threads": 2, "device": "cpu", "settings": {"fa": True}}
    now = {"weights": "b" * 64, "threads": 1, "settings": {"fa": False}, "new": 1}
    assert differing(before, now) == [
        "weights",
        "threads (2, now 1)",
        "device",
        "settings.fa (True, now False)",
        "new",
    ]
    assert differing(before, before) == []
