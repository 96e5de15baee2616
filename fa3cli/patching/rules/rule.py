"""Defines rules, which say by class name what the search for attention cannot find; one per file."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fa3cli.errors import UnsupportedError

__all__ = ["Example", "Place", "Rule", "Rules", "Sizes", "statements"]


@dataclass(frozen=True)
class Place:
    """Where the calls are written in `method`: below the statement `after`, for variables, or around expressions.

    With `core`, fa3 finds the place itself, for the one of several attention calls whose key operand is `core`.
    """

    method: str = "forward"
    after: str | None = None
    q: str | None = None
    k: str | None = None
    v: str | None = None
    core: str | None = None

    @property
    def states(self) -> tuple[str, str, str] | tuple[()]:
        """The three states, for q, k and v; empty if one of them is missing."""
        return () if self.q is None or self.k is None or self.v is None else (self.q, self.k, self.v)


@dataclass(frozen=True)
class Sizes:
    """The attributes of the quantizer's config, as expressions of `__init__`."""

    num_attention_heads: str
    hidden_size: str
    num_key_value_heads: str


@dataclass(frozen=True)
class Example:
    """A few lines of a modeling file, and the expected result: the lines `after`, or a part of the refusal."""

    before: str
    after: str | None = None
    refused: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One rule file, for the classes that it matches; all code in it is text as `ast.unparse` writes it.

    `refuse` and `idle` are reasons: a patch would be wrong, or the class needs no patch. `unless` are values of
    config.json with which a refused class is never built. `absent` are keys of config.json that must have no value;
    otherwise the class is refused.
    """

    file: str
    digest: str
    match: tuple[str, ...]
    example: tuple[Example, ...] = ()
    contains: tuple[str, ...] = ()
    refuse: str | None = None
    unless: Mapping[str, Any] = field(default_factory=dict)
    idle: str | None = None
    attach: Sizes | None = None
    site: Place | None = None
    absent: tuple[str, ...] = ()

    def matches(self, node: ast.ClassDef) -> bool:
        """Tell whether a class has one of the names and contains every statement of `contains`."""
        if node.name not in self.match:
            return False
        return not self.contains or {ast.unparse(part) for part in statements(node)}.issuperset(self.contains)

    def never_built(self, config: Mapping[str, Any]) -> bool:
        """Tell whether config.json shows that the model does not build the class which this rule refuses."""
        return bool(self.unless) and all(config.get(key) == value for key, value in self.unless.items())


@dataclass(frozen=True)
class Rules:
    """The rules for patching a file; the user's rules come before the shipped rules."""

    shipped: tuple[Rule, ...] = ()
    own: tuple[Rule, ...] = ()

    def of(self, node: ast.ClassDef) -> Rule | None:
        """Return the rule that matches a class; UnsupportedError if two do."""
        for rules in (self.own, self.shipped):
            found = [rule for rule in rules if rule.matches(node)]
            if len(found) > 1:
                raise UnsupportedError(
                    f"two rules match {node.name}: {found[0].file} and {found[1].file}",
                    hint="distinguish the classes by `contains`, or merge the two rules",
                )
            if found:
                return found[0]
        return None


def statements(node: ast.AST) -> list[ast.stmt]:
    """Return every statement in a node, at any depth."""
    return [part for part in ast.walk(node) if isinstance(part, ast.stmt)]
