"""Tests that only files of the folder are opened for the code that auto_map names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fa3cli.exports.verification import Finding, verify_export
from tests.exports.exports import build_export


def found(folder: Path, auto_map: object, document: str = "tokenizer_config.json") -> list[Finding]:
    """Return the findings of `remote-code` for a document with this auto_map."""
    if document == "config.json":
        config = json.loads((folder / document).read_text())
        (folder / document).write_text(json.dumps(config | {"auto_map": auto_map}))
    else:
        (folder / document).write_text(json.dumps({"auto_map": auto_map}))
    report = verify_export(folder, ["modelslim"])
    return [finding for finding in report.findings if finding.check == "remote-code"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_export(tmp_path / "export")
    (tmp_path / "outside.py").write_text("from .gone import a\n")
    (tmp_path / "export" / "beside.py").write_text("a = 1\n")
    (tmp_path / "export" / "sub").mkdir()
    (tmp_path / "export" / "sub" / "code.py").write_text("from .gone import a\n")
    return tmp_path / "export"


@pytest.mark.parametrize("document", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "reference",
    [
        *("../outside.Model", "/etc/passwd.Model", "..\\outside.Model", "sub/code.Model", "sub.code.Model"),
        *("", ".", "..", "Model", ".Model", "beside.", "a\0b.Model", "./beside.Model", "beside.Model.more"),
        *("../outside--beside.Model", "/tmp--beside.Model", "..--beside.Model", "a/..--beside.Model"),
        *(7, True, {"a": 1}, [["beside.Model"]], 0.5),
    ],
)
def test_an_invalid_reference_is_found_and_not_opened(
    reference: object, document: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("fa3cli.exports.checks.remote_code.read_bytes", lambda path: opened.append(path) or b"")
    [finding] = found(folder, {"AutoModel": reference}, document)
    assert (finding.subject, finding.severity) == (document, "error") and opened == []


@pytest.mark.parametrize("auto_map", ["beside.Model", 7, "../outside.Model"])
def test_an_invalid_auto_map_is_found(auto_map: object, folder: Path) -> None:
    assert (found(folder, auto_map) == []) == (auto_map == "beside.Model")


@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoTokenizer": ["beside.Slow", None]},
        {"AutoTokenizer": [None, "beside.Fast"]},
        ["beside.Slow", None],
        {"AutoModel": "owner/name--other.Model"},
        {"AutoModel": "name--other.Model"},
        {},
        None,
    ],
)
def test_code_in_the_folder_or_in_another_repository_is_accepted(auto_map: object, folder: Path) -> None:
    assert found(folder, auto_map) == []


def test_missing_files_and_missing_imports_are_found(folder: Path) -> None:
    assert [finding.subject for finding in found(folder, {"AutoModel": "gone.Model"})] == ["gone.py"]
    (folder / "beside.py").write_text("from .lost import a\nfrom .beside import b\n")
    [finding] = found(folder, {"AutoModel": "beside.Model"})
    assert finding.subject == "lost.py" and "beside.py imports it" in finding.message


def test_code_that_is_not_a_regular_file_is_found(folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    (folder / "zero.py").symlink_to("/dev/zero")
    with (folder / "sparse.py").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "zero", "sparse", "sub"):
        (folder / "sub.py").mkdir(exist_ok=True)
        [finding] = found(folder, {"AutoModel": f"{name}.Model"})
        assert finding.subject == f"{name}.py" and "cannot be read" in finding.message


@pytest.mark.parametrize("source", ["-" * 10**6 + "1", "(" * 10**5, "a" + "+a" * 10**6, "a\0b", "a = ", "\xff"])
def test_code_that_cannot_be_parsed_imports_nothing(source: str, folder: Path) -> None:
    (folder / "beside.py").write_bytes(source.encode("latin-1"))
    assert found(folder, {"AutoModel": "beside.Model"}) == []
