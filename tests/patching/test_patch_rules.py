"""Checks all examples of the rules that come with fa3cli, and of the rule in the documentation."""

import re
from pathlib import Path

import pytest

from fa3cli.patching.rules.examples import check_examples
from fa3cli.patching.rules.rule_files import read_rule, shipped_rules

RULES = {Path(rule.file).name: rule for rule in shipped_rules()}
DOCS = Path(__file__).parents[2] / "docs" / "patch-rules.md"


@pytest.mark.parametrize("name", RULES)
def test_a_shipped_rule_passes_its_examples(name: str) -> None:
    check_examples(RULES[name])


def test_the_rule_in_the_documentation_passes_its_examples(tmp_path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "quill.toml").write_text(text)
    check_examples(read_rule(tmp_path / "quill.toml"))
