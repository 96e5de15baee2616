"""Copies attention processors that a transformer imports into its patched file; diffusers' own files stay unchanged.

Their text is read from the installed package when a model is patched, and appended to the file, where it replaces the
imported classes.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fa3cli.patching.diffusion.bound_names import Module, bound_names, origin, read_module
from fa3cli.patching.diffusion.library import Diffusers
from fa3cli.patching.imports import absolute_imports, absolute_module
from fa3cli.patching.locating.classes import ClassGraph, is_processor
from fa3cli.patching.locating.statements import names_in
from fa3cli.patching.places import End, Passed
from fa3cli.patching.processors import called_names
from fa3cli.patching.rewriting import write
from fa3cli.patching.source import Source, parse

__all__ = ["Vendored", "vendor"]


@dataclass(frozen=True)
class Vendored:
    """The text with the copied classes, and the origin of each: its file, and its line there minus its line here."""

    text: str
    places: Mapping[str, tuple[Path, int]] = field(default_factory=dict)


def vendor(source: Source, library: Diffusers, module: str) -> Vendored:
    """Copy the processors that a transformer's file, `module`, creates but does not define."""
    target = Module(module, source, ClassGraph(source))
    copied: dict[str, Module] = {}
    passed: list[Passed] = []
    read = cache(read_module)
    for node, alias, home in _imported(source, target.package):
        if (alias.asname or alias.name) not in called_names(source.tree):
            continue
        found = read(library, home)
        if found and _computes_attention(found.graph, alias.name):
            if alias.asname:
                raise source.refuse(node, f"imports {alias.name} under another name, {alias.asname}")
            copied |= dict.fromkeys(_with_bases(found.graph, alias.name), found)
            passed += _remove_local_import(source, node)
    if not copied:
        return Vendored(source.text)
    _refuse_early_uses(source, copied)
    return _append_classes(library, target, copied, passed)


def _imported(source: Source, package: str) -> Iterator[tuple[ast.ImportFrom, ast.alias, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, alias, absolute_module(source, node, package)


def _computes_attention(graph: ClassGraph, name: str) -> bool:
    """Tell whether a class is a processor, or returns one from `__new__`, as diffusers does for old names."""
    return name in graph.classes and (
        is_processor(graph, name) or graph.method(name, "__new__", inherited=False) is not None
    )


def _with_bases(graph: ClassGraph, name: str) -> list[str]:
    return [ancestor for base in graph.bases(name) for ancestor in _with_bases(graph, base)] + [name]


def _remove_local_import(source: Source, node: ast.ImportFrom) -> list[Passed]:
    """Replace an import in a function by `pass`: it would hide the copied class."""
    if node in source.tree.body:
        return []
    if len(node.names) > 1:
        raise source.refuse(node, "imports a processor together with other names inside a function")
    return [Passed(node)]


def _refuse_early_uses(source: Source, copied: dict[str, Module]) -> None:
    """Refuse uses outside of functions: they run before the copied classes at the end of the file are defined."""
    for node in source.tree.body:
        functions = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)]
        inner = {id(part) for function in functions for part in ast.walk(function)}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in copied and id(part) not in inner:
                raise source.refuse(part, f"uses {part.id} of another file outside any function")


def _append_classes(library: Diffusers, target: Module, copied: dict[str, Module], passed: list[Passed]) -> Vendored:
    needed: list[str] = []
    for name, home in copied.items():
        needed += _needed_imports(library, target, home, name, set(copied))
    homes = dict.fromkeys(home.name for home in copied.values())
    text = "\n".join(
        ["", "", *(f"# Taken over from {module_name}" for module_name in homes), *dict.fromkeys(needed), ""]
    )
    lines = {}
    for name, home in copied.items():
        text += "\n\n"
        lines[name] = text.count("\n")
        text += _class_text(target, home, home.graph.classes[name])
    made = write(target.source, [*passed, End(target.source.tree, text)])
    above = made.count("\n") - text.count("\n")
    places = {
        name: (Path(home.source.name), _first_line(home.graph.classes[name]) - (above + lines[name] + 1))
        for name, home in copied.items()
    }
    return Vendored(made, places)


def _class_text(target: Module, home: Module, node: ast.ClassDef) -> str:
    """Return the text of a class with absolute imports; imports of the target module itself become `pass`."""
    lines = home.source.lines[_first_line(node) - 1 : node.end_lineno]
    source = parse("\n".join(line.rstrip("\r\n") for line in [*lines, ""]), home.source.name)
    places = [
        Passed(place.node) if place.module == target.name else place for place in absolute_imports(source, home.package)
    ]
    return write(source, places)


def _first_line(node: ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _needed_imports(library: Diffusers, target: Module, home: Module, name: str, copied: set[str]) -> list[str]:
    """Return the imports that a class needs in its new file, for names that it uses from its old file."""
    node = home.graph.classes[name]
    used = names_in(node) - copied - set(dir(builtins))
    target_names, home_names = bound_names(target), bound_names(home)
    lines = []
    for used_name in sorted(used & home_names.keys() - {"logger"}):
        dotted, always = home_names[used_name]
        if used_name not in target_names:
            line = f"from {home.name} import {used_name}"
            lines += [line] if always else ["try:", f"    {line}", "except ImportError:", "    pass"]
        elif origin(library, target_names[used_name][0]) != origin(library, dotted):
            raise home.source.refuse(
                node, f"{used_name} is {dotted} in {name}, but {target_names[used_name][0]} in {target.name}"
            )
    return ["\n".join(lines)] if lines else []
