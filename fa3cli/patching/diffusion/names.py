"""What a module of diffusers binds its names to, read off its text."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from fa3cli.patching.diffusion.library import Diffusers
from fa3cli.patching.imports import absolute_module
from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.origin import read_source
from fa3cli.patching.source import Source, parse

__all__ = ["Module", "bound_names", "origin", "read_module"]


@dataclass(frozen=True)
class Module:
    """A module of diffusers: its name, its text and its classes."""

    name: str
    source: Source
    graph: ClassGraph

    @property
    def package(self) -> str:
        """Where the module's relative imports start from."""
        return self.name.rpartition(".")[0]


def read_module(library: Diffusers, name: str) -> Module | None:
    """Read a module by its full name; None for a package or what isn't diffusers'."""
    path = library.module_file(name)
    if path is None:
        return None
    source = parse(read_source(path), str(path))
    return Module(name, source, ClassGraph(source))


def bound_names(module: Module) -> dict[str, tuple[str, bool]]:
    """The names a module binds, what each of them is, and whether it does so whatever is installed."""
    found: dict[str, tuple[str, bool]] = {}
    todo = [(node, True) for node in reversed(module.source.tree.body)]
    while todo:
        node, always = todo.pop()
        if isinstance(node, (ast.If, ast.Try)):
            todo += [(child, False) for child in reversed([*node.body, *node.orelse])]
        for name, dotted in _names(module, node).items():
            found.setdefault(name, (dotted, always))
    return found


def origin(library: Diffusers, dotted: str) -> str:
    """Where a name comes from in the end: modules hand on what they import."""
    module, _, name = dotted.rpartition(".")
    home = read_module(library, module)
    found = bound_names(home).get(name, (dotted, True))[0] if home else dotted
    return dotted if found == dotted else origin(library, found)


def _names(module: Module, node: ast.stmt) -> dict[str, str]:
    """The names a statement binds, and what each of them is."""
    if isinstance(node, ast.Import):
        whole = {alias.asname: alias.name for alias in node.names if alias.asname}
        return {
            alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names if not alias.asname
        } | whole
    if isinstance(node, ast.ImportFrom):
        start = absolute_module(module.source, node, module.package)
        return {alias.asname or alias.name: f"{start}.{alias.name}" for alias in node.names}
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return {node.name: f"{module.name}.{node.name}"}
    if isinstance(node, ast.Assign):
        return {
            target.id: f"{module.name}.{target.id}" for target in node.targets if isinstance(target, ast.Name)
        }
    return {}
