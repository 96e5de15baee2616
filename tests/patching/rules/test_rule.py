import ast
from dataclasses import replace

import pytest

from fa3cli.errors import UnsupportedError
from fa3cli.patching.rules.rule import Rules
from tests.patching.rule_samples import REFUSE, rule


def node(text: str) -> ast.ClassDef:
    return ast.parse(text).body[0]


def test_a_rule_matches_a_class_name_and_code_in_any_format(tmp_path) -> None:
    found = rule(tmp_path, REFUSE + "contains = ['''x = f(a, \n  b)''', 'y = 1']\n")
    assert found.matches(node("class Attention:\n def g(self):\n  if a:\n   x = f( a,b )\n  y = 1"))
    assert not found.matches(node("class Attention:\n def g(self):\n  x = f(a, b)"))
    assert not found.matches(node("class Other:\n x = f(a, b)\n y = 1"))


def test_user_rules_have_priority_and_two_equal_matches_are_an_error(tmp_path) -> None:
    mine, theirs = rule(tmp_path, REFUSE), rule(tmp_path, REFUSE, "theirs.toml")
    attention = node("class Attention: ...")
    assert Rules(shipped=(theirs,), own=(mine,)).of(attention) is mine
    assert Rules(shipped=(theirs,), own=(replace(mine, match=("Other",)),)).of(attention) is theirs
    assert Rules(shipped=(theirs,)).of(node("class Other: ...")) is None
    for both in (Rules(shipped=(mine, theirs)), Rules(own=(mine, theirs))):
        with pytest.raises(UnsupportedError, match=r"two rules match Attention: .*mine\.toml and .*theirs\.toml"):
            both.of(attention)


def test_unless_requires_all_its_values_in_config(tmp_path) -> None:
    found = rule(tmp_path, REFUSE + "unless = { kind = 'full', layers = 2 }\n")
    assert found.never_built({"kind": "full", "layers": 2, "more": 1})
    assert not found.never_built({"kind": "full"})
    assert not found.never_built({})
    assert not replace(found, unless={}).never_built({})
