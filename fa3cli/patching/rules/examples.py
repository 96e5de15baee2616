"""Runs the examples of a rule, which are its documentation and its test."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

from fa3cli.errors import Fa3Error, InvalidInputError, UnsupportedError
from fa3cli.files.python_code import bounded_tree
from fa3cli.patching.rules.rule import Example, Rule, Rules
from fa3cli.patching.rules.rule_files import load_rules
from fa3cli.patching.sources import patch_source

__all__ = ["check_examples", "checked_rules"]

# A modeling file needs an import, and examples have none. One is added at the end, so that line numbers stay.
_END = "\n\n# The example ends here.\n"


def checked_rules(folder: str | Path | None) -> Rules:
    """Return the shipped rules and those of a user's folder; InvalidInputError if an example of the user's fails."""
    rules = load_rules(folder)
    for rule in rules.own:
        check_examples(rule)
    return rules


def check_examples(rule: Rule) -> None:
    """Patch every example with only this rule; InvalidInputError shows a different result."""
    for number, example in enumerate(rule.example, 1):
        if wrong := _example_problem(rule, example, f"{rule.file}: example {number}"):
            raise InvalidInputError(f"{rule.file}: example {number} {wrong}")
    try:
        nodes = [node for example in rule.example for node in bounded_tree(example.before).body]
    except ValueError as error:
        raise InvalidInputError(f"{rule.file}: an example has code that fa3 cannot analyse: {error}") from None
    if not any(isinstance(node, ast.ClassDef) and rule.matches(node) for node in nodes):
        raise InvalidInputError(f"{rule.file}: no example has a class that the rule matches")


def _example_problem(rule: Rule, example: Example, name: str) -> str | None:
    """Describe how the result of an example differs from the expected one; None if it does not."""
    before = example.before.rstrip() + "\n"
    try:
        patched = patch_source(f"{before}{_END}import torch\n", name=name, rules=Rules((rule,)), config=example.config)
    except UnsupportedError as error:
        if example.refused is None:
            return f"was refused: {error}"
        return None if example.refused in str(error) else f"was refused for another reason: {error}"
    except Fa3Error as error:
        return f"is not valid: {error}"
    if example.after is None:
        return f"was patched, expected to be refused: {example.refused}"
    inside = patched.text.partition(_END)[0]
    found, expected = (text.strip("\n").split("\n") for text in (inside, example.after))
    if found == [line.rstrip() for line in expected]:
        return None
    return "has another result\n" + "\n".join(difflib.unified_diff(expected, found, "expected", "found", lineterm=""))
