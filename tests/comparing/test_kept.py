"""Tests that a comparison is written into an export's report completely or not at all, and changes nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fa3cli.comparing.kept import keep_comparison
from fa3cli.comparing.text import Comparison
from fa3cli.exports.layout import REPORT_FILE
from tests.sample_models import snapshot

FOUND = Comparison(2, 1, 30, 8.0, 8.1, 1e-3, 0.98, (0.01, 0.02))
REPORT = {"identity": {"weights": "é"}, "recipe": "none", "result": {"layers": []}}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    export = tmp_path / "export"
    export.mkdir()
    (export / REPORT_FILE).write_text(json.dumps(REPORT), encoding="utf-8")
    return export


@pytest.fixture
def text(tmp_path: Path) -> Path:
    text = tmp_path / "eval.jsonl"
    text.write_bytes(b'{"text": "one"}\r\n')
    return text


def read(export: Path) -> dict[str, object]:
    return json.loads((export / REPORT_FILE).read_text(encoding="utf-8"))


def test_a_comparison_is_added_and_later_replaced(export: Path, text: Path) -> None:
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    for found in (FOUND, replace(FOUND, kl_divergence=2e-3)):
        assert keep_comparison(export, found, text) is None
        expected = json.loads(json.dumps(asdict(found))) | {"text": "eval.jsonl", "text_sha256": digest}
        assert read(export) == {**REPORT, "comparison": expected}
    assert [file.name for file in export.iterdir()] == [REPORT_FILE]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o440])
def test_the_file_mode_is_kept(export: Path, text: Path, mode: int) -> None:
    (export / REPORT_FILE).chmod(mode)
    assert keep_comparison(export, FOUND, text) is None
    assert stat.S_IMODE((export / REPORT_FILE).stat().st_mode) == mode


def test_a_linked_report_stays_a_link(export: Path, text: Path, tmp_path: Path) -> None:
    (export / REPORT_FILE).rename(tmp_path / "elsewhere.json")
    (export / REPORT_FILE).symlink_to(tmp_path / "elsewhere.json")
    assert keep_comparison(export, FOUND, text) is None
    assert (export / REPORT_FILE).is_symlink() and "comparison" in read(export)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no fa3_report.json"),
        (b"{", "Expecting"),
        (b"[]", "not as fa3 wrote it"),
        (b"\xff", "codec"),
    ],
)
def test_an_invalid_report_gets_no_comparison(export: Path, text: Path, content: bytes | None, words: str) -> None:
    (export / REPORT_FILE).unlink()
    if content is not None:
        (export / REPORT_FILE).write_bytes(content)
    before = snapshot(export)
    assert words in keep_comparison(export, FOUND, text)
    assert snapshot(export) == before


def test_a_report_that_links_to_itself_is_a_problem(export: Path, text: Path) -> None:
    (export / REPORT_FILE).unlink()
    (export / REPORT_FILE).symlink_to(REPORT_FILE)
    assert keep_comparison(export, FOUND, text)


def test_the_text_must_be_a_regular_file(export: Path, tmp_path: Path) -> None:
    before = snapshot(export)
    os.mkfifo(tmp_path / "pipe")
    for text in (tmp_path / "pipe", tmp_path / "gone", tmp_path):
        assert "is no file" in keep_comparison(export, FOUND, text)
    assert snapshot(export) == before


@pytest.mark.parametrize("where", ["open", "replace", "fsync", "fchmod"])
def test_a_failed_write_changes_nothing(export: Path, text: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{where}", full)
    before = snapshot(export)
    assert "No space left" in keep_comparison(export, FOUND, text)
    assert snapshot(export) == before
