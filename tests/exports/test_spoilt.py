"""Tests that verification of invalid files returns a report, and never raises."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.exports.verification import verify_export
from tests.exports.exports import NEW_DESCRIPTION, WEIGHTS, Export, build_export, build_for, findings_of
from tests.mutated import SEEDS, mutated_json, mutated_tensors
from tests.special_files import SPECIAL, put

JSON_FILES = ("config.json", "tokenizer_config.json", "fa3_report.json")


def export_of(target: str, folder: Path) -> Export:
    """Return an export with all documents that verify reads."""
    export = build_for(target, folder)
    if target == "mindie":
        export.save(shards=2)
    for name in ("tokenizer_config.json", "fa3_report.json"):
        (folder / name).write_text(json.dumps({"target": target, "auto_map": {"AutoModel": "model.Model"}}))
    (folder / "model.py").write_text("import torch\n")
    return export


@pytest.mark.parametrize("target", ["mindie", "vllm-ascend", "vllm", "mindie-sd"])
def test_mutated_files_give_a_report(target: str, tmp_path: Path) -> None:
    folder = export_of(target, tmp_path / "export").folder
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
    for seed in SEEDS[::4]:
        file = files[seed // 4 % len(files)]
        raw = file.read_bytes()
        tensors = file.suffix == ".safetensors"
        file.write_bytes(mutated_tensors(raw, seed) if tensors else mutated_json(json.loads(raw), seed))
        report = verify_export(folder, [target])
        assert json.dumps(asdict(report), ensure_ascii=False).encode(), seed
        file.write_bytes(raw)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "index",
        NEW_DESCRIPTION,
        "weights",
        "tokenizer_config.json",
        "fa3_report.json",
        "model.py",
    ],
)
def test_special_files_are_findings(kind: str, name: str, tmp_path: Path) -> None:
    folder = export_of("mindie", tmp_path / "export").folder
    place = {
        "index": f"{WEIGHTS}.index.json",
        "weights": WEIGHTS.replace(".safetensors", "-00001-of-00002.safetensors"),
    }
    file = place.get(name, name)
    put(kind, folder / file)
    report = verify_export(folder, ["mindie"])
    harmless = name in ("tokenizer_config.json", "fa3_report.json") or (name, kind) == ("model.py", "empty")
    python = name == "model.py" and kind.startswith(("deep", "empty"))
    assert report.ok == (harmless or python), [finding for finding in report.findings if finding.severity == "error"]
    if not report.ok:
        assert any(finding.subject == file for finding in report.findings)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "a\0b.safetensors",
        "",
        ".",
        "..",
        "a/b.safetensors",
        "sub",
        7,
        None,
        [],
        {"a": 1},
    ],
)
def test_an_index_entry_without_a_file_in_the_folder_is_a_finding(name: object, tmp_path: Path) -> None:
    export = build_export(tmp_path)
    export.save(shards=2)
    (tmp_path / "sub").mkdir()
    index = json.loads((tmp_path / f"{WEIGHTS}.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert {finding.check for finding in findings_of(tmp_path)} & {"index", "weights"}


@pytest.mark.parametrize("text", ['{"a\\ud800": "FLOAT"}', '{"a": "\\udfff"}', '{"a": ' + "9" * 400 + "}"])
def test_a_description_that_cannot_be_written_back_is_a_finding(text: str, tmp_path: Path) -> None:
    export = build_export(tmp_path)
    (export.folder / export.description_files[0]).write_text(text)
    assert [finding.check for finding in findings_of(tmp_path)] == ["description"]


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "\u202ea", "model.layers.0.\x7f.weight"])
def test_findings_show_unprintable_names_escaped(name: str, tmp_path: Path) -> None:
    """Findings hold the escaped name; checks must compare with the name itself."""
    export = build_export(tmp_path)
    export.description[f"{name}.weight_scale"] = "W8A8"
    export.save()
    found = findings_of(tmp_path)
    assert found and all(finding.subject.isprintable() for finding in found)


def test_a_header_with_impossible_sizes_is_a_finding(tmp_path: Path) -> None:
    export = build_export(tmp_path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}}).encode()
    (export.folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert [finding.check for finding in findings_of(tmp_path)][:1] == ["weights"]


@pytest.mark.parametrize("place", ["/proc", "/"])
def test_system_folders_are_not_exports(place: str) -> None:
    with pytest.raises(InvalidInputError):
        verify_export(Path(place))
