"""The rules that come with fa3cli: every example of every one."""

from pathlib import Path

import pytest

from fa3cli.patching.examples import check_examples
from fa3cli.patching.rule_files import shipped_rules

RULES = {Path(rule.file).name: rule for rule in shipped_rules()}


@pytest.mark.parametrize("name", RULES)
def test_a_shipped_rule_does_what_its_examples_say(name: str) -> None:
    check_examples(RULES[name])
