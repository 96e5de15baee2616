"""Applies rules to the attention classes that the search found in a file."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.classes import AttentionClass, ClassGraph, Found, patchable_class, site_of_core
from fa3cli.patching.locating.locate import ROLES, Site
from fa3cli.patching.rules.rule import Place, Rule, Rules, statements
from fa3cli.patching.source import Source

__all__ = ["apply_rules", "rules_of"]

Node = TypeVar("Node", ast.stmt, ast.expr)


def rules_of(graph: ClassGraph, rules: Rules) -> dict[str, Rule]:
    """Map the classes of a file to their rules; classes without a rule are omitted."""
    found = {name: rules.of(node) for name, node in graph.classes.items()}
    return {name: rule for name, rule in found.items() if rule is not None}


def apply_rules(
    source: Source, graph: ClassGraph, found: Found, rules: Mapping[str, Rule], config: Mapping[str, Any]
) -> Found:
    """Replace the results of the search by those of the rules, for classes with a rule, in the order of the file.

    `config` is the data of config.json, with which some refusals do not apply.
    """
    changed = {name: _apply_rule(source, graph, name, rule, found.get(name), config) for name, rule in rules.items()}
    both = {**found, **{name: ruled for name, ruled in changed.items() if ruled is not None}}
    return {name: both[name] for name in graph.classes if name in both}


def _apply_rule(
    source: Source,
    graph: ClassGraph,
    name: str,
    rule: Rule,
    found: tuple[AttentionClass, Site | None] | None,
    config: Mapping[str, Any],
) -> tuple[AttentionClass, Site | None] | None:
    node, file = graph.classes[name], Path(rule.file).name
    if rule.refuse and rule.never_built(config):
        condition = ", ".join(f"{key} is {value}" for key, value in rule.unless.items())
        return AttentionClass(name, node.lineno, problem=f"never built: {condition}", rule=file, idle=True), None
    if rule.refuse:
        problem = str(source.refuse(node, rule.refuse))
        return AttentionClass(name, node.lineno, problem=problem, rule=file), None
    if rule.idle:
        return AttentionClass(name, node.lineno, problem=rule.idle, rule=file, idle=True), None
    if rule.site is None:
        return found and (replace(found[0], rule=file), found[1])
    given = [key for key in rule.absent if config.get(key) is not None]
    try:
        if given:
            raise source.refuse(node, f"{rule.file}: {name} can only be patched where config.json has no {given[0]}")
        site = _site(source, graph, name, rule, rule.site)
    except UnsupportedError as error:
        return AttentionClass(name, node.lineno, problem=str(error), rule=file), None
    return replace(patchable_class(node, site, is_flash=False), rule=file), site


def _site(source: Source, graph: ClassGraph, name: str, rule: Rule, place: Place) -> Site:
    if place.core is not None:
        if (site := site_of_core(source, graph, name, place.core)) is None:
            raise source.refuse(
                graph.classes[name], f"{rule.file}: {name} has no attention call with keys called {place.core}"
            )
        return site
    method = graph.method(name, place.method, inherited=False)
    if method is None:
        raise source.refuse(graph.classes[name], f"{rule.file}: {name} has no method {place.method} of its own")
    function = method[1]
    if place.after is not None:
        after = _only_match(source, function, statements(function), place.after, rule)
        if after not in function.body:
            problem = "site.after is inside another statement, but the calls must always run"
            raise source.refuse(after, f"{rule.file}: {problem}")
        return Site(after, place.states)
    written = (ast.Store, ast.Del)
    read = [node for node in ast.walk(function) if isinstance(node, ast.expr)]
    read = [node for node in read if not isinstance(getattr(node, "ctx", None), written)]
    around = [_only_match(source, function, read, text, rule) for text in place.states]
    return Site(inside=tuple(zip(ROLES, around)))


def _only_match(source: Source, function: ast.FunctionDef, nodes: Iterable[Node], text: str, rule: Rule) -> Node:
    found = [node for node in nodes if ast.unparse(node) == text]
    if len(found) != 1:
        first, _, more = text.partition("\n")
        written = f"{first} ..." if more else first
        raise source.refuse(function, f"{rule.file}: {function.name} must contain `{written}` once, found {len(found)}")
    return found[0]
