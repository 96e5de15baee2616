"""Tests that damaged files of an export are remarks or errors of the report, never a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.report.data import gather
from fa3cli.report.page import page
from tests.exports.exports import DESCRIPTION, WEIGHTS, Export
from tests.mutated import SEEDS, mutated_json, mutated_tensors
from tests.report.exports import report_of, sampled, write_report
from tests.special_files import SPECIAL, put


def test_mutated_files_still_give_a_page(export: Export) -> None:
    write_report(export.folder, report_of([sampled(0, 4), sampled(1, 3)]))
    files = ["fa3_report.json", "config.json", "fa3_report.json", DESCRIPTION, "fa3_report.json", WEIGHTS]
    for seed in SEEDS:
        file = export.folder / files[seed % len(files)]
        raw = file.read_bytes()
        tensors = file.suffix == ".safetensors"
        file.write_bytes(mutated_tensors(raw, seed) if tensors else mutated_json(json.loads(raw), seed))
        assert page(gather(export.folder)).encode("utf-8", errors="replace"), seed
        file.write_bytes(raw)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["fa3_report.json", "config.json", DESCRIPTION, WEIGHTS])
def test_special_files_are_remarks(kind: str, name: str, export: Export) -> None:
    put(kind, export.folder / name)
    facts = gather(export.folder)
    assert any(name in remark for remark in facts.remarks)


@pytest.mark.parametrize("place", ["/proc", "/", "/dev"])
def test_system_folders_are_not_exports(place: str) -> None:
    with pytest.raises(InvalidInputError):
        gather(Path(place))
