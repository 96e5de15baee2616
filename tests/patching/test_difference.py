from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fa3cli.patching.difference import difference
from fa3cli.patching.receipt import Options

OLD = SimpleNamespace(options=Options(), transformers="4.57.6", rules=3, rule_files={"a.toml": "1"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"options": replace(Options(), attention=("A", "B"))}, "--attention none, asked for is A B"),
        ({"transformers": "5.0.0"}, "transformers 4.57.6, installed is 5.0.0"),
        ({"rules": 4}, "rules 3, today's are 4"),
        ({"rule_files": {"a.toml": "2"}}, "the rule a.toml has changed"),
    ],
)
def test_the_first_thing_that_differs_is_named(changes: dict[str, object], words: str | None) -> None:
    found = difference(OLD, SimpleNamespace(**vars(OLD) | changes), "transformers")
    assert found is None if words is None else words in found
