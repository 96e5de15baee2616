"""Attention processors that a transformer imports, taken over into its patched file: diffusers' own file stays as it is.

Their text comes from the installed package when a model is patched, and goes to the end of the file, where it takes
the place of what was imported.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fa3cli.patching.diffusion.library import Diffusers
from fa3cli.patching.diffusion.names import Module, bound, origin, read_module
from fa3cli.patching.edits import Edit, apply
from fa3cli.patching.imports import absolute_imports, absolute_module
from fa3cli.patching.locating.classes import ClassGraph, is_processor
from fa3cli.patching.processors import called_names
from fa3cli.patching.source import Source

__all__ = ["Vendored", "vendor"]


@dataclass(frozen=True)
class Vendored:
    """The edits that take classes over, and where each was: the file, and its line there less its line now."""

    edits: tuple[Edit, ...] = ()
    places: Mapping[str, tuple[Path, int]] = field(default_factory=dict)


def vendor(source: Source, library: Diffusers, module: str) -> Vendored:
    """Take over the processors that a transformer's file, `module`, makes but doesn't define."""
    target = Module(module, source, ClassGraph(source))
    taken: dict[str, Module] = {}
    edits = []
    modules: dict[str, Module | None] = {}
    for node, alias, home in _imported(source, target.package):
        if (alias.asname or alias.name) not in called_names(source.tree):
            continue
        if home not in modules:
            modules[home] = read_module(library, home)
        if modules[home] and _computes_attention(modules[home].graph, alias.name):
            if alias.asname:
                raise source.refuse(node, f"imports {alias.name} under another name, {alias.asname}")
            taken |= dict.fromkeys(_with_bases(modules[home].graph, alias.name), modules[home])
            edits += _no_local_import(source, node)
    if not taken:
        return Vendored()
    _refuse_early_uses(source, taken)
    return _at_the_end(library, target, taken, edits)


def _imported(source: Source, package: str) -> Iterator[tuple[ast.ImportFrom, ast.alias, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, alias, absolute_module(source, node, package)


def _computes_attention(graph: ClassGraph, name: str) -> bool:
    """Whether a class is a processor, or makes one in its place (`__new__`, as diffusers does with old names)."""
    return name in graph.classes and (
        is_processor(graph, name) or graph.method(name, "__new__", inherited=False) is not None
    )


def _with_bases(graph: ClassGraph, name: str) -> list[str]:
    return [each for base in graph.bases(name) for each in _with_bases(graph, base)] + [name]


def _no_local_import(source: Source, node: ast.ImportFrom) -> list[Edit]:
    """An import within a function would hide what is taken over."""
    if node in source.tree.body:
        return []
    if len(node.names) > 1:
        raise source.refuse(node, "imports a processor together with something else inside a function")
    start, end = source.start(node), source.end(node)
    return [Edit(start, source.text[start:end], "pass")]


def _refuse_early_uses(source: Source, taken: dict[str, Module]) -> None:
    """What stands at the end of the file isn't there yet while its classes are made."""
    for node in source.tree.body:
        inner = {
            id(each)
            for function in ast.walk(node)
            if isinstance(function, ast.FunctionDef)
            for each in ast.walk(function)
        }
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and each.id in taken and id(each) not in inner:
                raise source.refuse(each, f"uses {each.id} of another file outside any function")


def _at_the_end(library: Diffusers, target: Module, taken: dict[str, Module], edits: list[Edit]) -> Vendored:
    source, newline = target.source, target.source.newline
    needed = [
        line for name, home in taken.items() for line in _needed(library, target, home, name, set(taken))
    ]
    homes = dict.fromkeys(home.name for home in taken.values())
    head = ["", "", *(f"# Taken over from {each}" for each in homes)]
    text = newline.join("\n".join([*head, *dict.fromkeys(needed), ""]).split("\n"))
    if not source.text.endswith(("\n", "\r")):
        text = newline + text
    places, above = {}, len(apply(source.text, edits).splitlines())
    for name, home in taken.items():
        node = home.graph.classes[name]
        text += newline * 2
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        places[name] = Path(home.source.name), first - (above + len(text.splitlines()) + 1)
        text += newline.join(_class_text(target, home, node).splitlines()) + newline
    return Vendored((*edits, Edit(len(source.text), "", text)), places)


def _class_text(target: Module, home: Module, node: ast.ClassDef) -> str:
    """The text of a class, its imports made absolute; one of the target itself is left out."""
    source = home.source
    start, end = source.line_start(node), source.next_line(node)
    edits = [each for each in absolute_imports(source, home.package) if start <= each.offset < end]
    for each in ast.walk(node):
        if isinstance(each, ast.ImportFrom) and absolute_module(source, each, home.package) == target.name:
            first, last = source.start(each), source.end(each)
            edits = [edit for edit in edits if not first <= edit.offset < last]
            edits.append(Edit(first, source.text[first:last], "pass"))
    moved = [Edit(edit.offset - start, edit.removed, edit.inserted) for edit in edits]
    return apply(source.text[start:end], moved)


def _needed(library: Diffusers, target: Module, home: Module, name: str, taken: set[str]) -> list[str]:
    """The imports a class needs in its new file, of names that it takes from its old one."""
    node = home.graph.classes[name]
    used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} - taken - set(dir(builtins))
    here, there = bound(target), bound(home)
    lines = []
    for each in sorted(used & there.keys() - {"logger"}):
        dotted, always = there[each]
        if each not in here:
            line = f"from {home.name} import {each}"
            lines += [line] if always else ["try:", f"    {line}", "except ImportError:", "    pass"]
        elif origin(library, here[each][0]) != origin(library, dotted):
            raise home.source.refuse(
                node, f"{name} takes {each} for {dotted}, {target.name} for {here[each][0]}"
            )
    return ["\n".join(lines)] if lines else []
