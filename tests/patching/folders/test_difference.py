from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fa3cli.patching.folders.difference import difference
from fa3cli.patching.folders.receipt import Change, FileChange, Options, Receipt

CHANGE = Change("a", "b", ())
FILE = FileChange(None, "modeling_x_fa3.py", "/s.py", CHANGE)
OLD = Receipt("0.1", 3, "transformers", "4.57.6", Options(), (FILE,), CHANGE, rule_files={"a.toml": "1"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "written by fa3 0.1, this is 0.1"),
        ({"options": Options(attention=("A", "B"))}, "--attention none, requested is A B"),
        ({"version": "5.0.0"}, "transformers 4.57.6, installed is 5.0.0"),
        ({"rules": 4}, "rules 3, current rules are 4"),
        ({"rule_files": {"a.toml": "2"}}, "the rule a.toml has changed"),
        ({"files": (replace(FILE, modeling=replace(CHANGE, before="c")),)}, "its source /s.py has changed"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in difference(OLD, replace(OLD, **changes))


def test_a_changed_file_of_copied_classes_is_mentioned() -> None:
    old = replace(OLD, library="diffusers")
    assert "a file from which it copies classes has changed" in difference(old, old)
