from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.exports.checks import CHECKS
from fa3cli.exports.checks.registry import ALL, ASCEND, LANGUAGE, check


def test_every_check_has_a_name_and_a_one_line_reason() -> None:
    assert len(CHECKS) > 20
    for name, entry in CHECKS.items():
        assert name == entry.name and entry.reason and "\n" not in entry.reason


def test_the_documentation_lists_every_check() -> None:
    text = (Path(__file__).parents[3] / "docs" / "verify.md").read_text()
    table = text.split("| check | targets | why it matters |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    groups = {ALL: "all", ASCEND: "Ascend", LANGUAGE: "language"}
    assert rows == [
        f"| `{entry.name}` | {groups.get(entry.targets, ', '.join(entry.targets))} | {entry.reason} |"
        for entry in CHECKS.values()
    ]


def test_a_check_may_need_only_earlier_checks() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        check("late", "a reason", needs=("nowhere",))


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="twice"):
        check("config", "a reason")
