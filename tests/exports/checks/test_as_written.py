"""Tests the comparison of tensors with the checksums in fa3_report.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fa3cli import api
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.exports.verification import Finding
from tests.sample_models import token_ids, write_lines, write_model

FILE = "quant_model_weight_w8a8.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("as_written")
    calib = write_lines(folder / "calib.jsonl", token_ids(16))
    return api.quantize(write_model(folder / "llama", "llama"), folder / "out", calib=calib).output


@pytest.fixture
def export(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "export"))


def change_report(export: Path, **values: object) -> None:
    report = json.loads((export / REPORT_FILE).read_text())
    (export / REPORT_FILE).write_text(json.dumps(report | values))


def errors(export: Path) -> list[Finding]:
    return [finding for finding in api.verify(export).findings if finding.severity == "error"]


def test_every_tensor_is_compared(export: Path) -> None:
    report = api.verify(export)
    [result] = [result for result in report.checks if result.name == "checksums"]
    assert report.ok and result.checked == len(load_file(export / FILE))


def test_a_changed_tensor_is_found(export: Path) -> None:
    tensors, name = load_file(export / FILE), "model.norm.weight"
    tensors[name] = tensors[name] + 1
    save_file(tensors, export / FILE)
    [finding] = errors(export)
    assert finding.subject == name and "not as fa3 wrote it" in finding.message


def test_exchanged_tensors_are_named(export: Path) -> None:
    tensors = load_file(export / FILE)
    # Tensors of FA3 that are valid for the other module as well.
    one, other = (f"model.layers.{layer}.self_attn.fa_k.scale" for layer in (0, 1))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, export / FILE)
    findings = errors(export)
    assert {finding.subject for finding in findings} == {one, other}
    assert f"is that of {other}" in findings[0].message


@pytest.mark.parametrize("checksums", [None, [], {"model.norm.weight": 3}, {"no.such.tensor": "00000000"}])
def test_a_report_without_valid_checksums_is_no_error(export: Path, checksums: object) -> None:
    change_report(export, checksums=checksums)
    assert api.verify(export).ok


def test_files_may_be_written_again(export: Path) -> None:
    save_file(load_file(export / FILE), export / FILE)
    assert api.verify(export).ok
