"""Reads from a diffusers module's text which names it defines or imports, and where they come from."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from fa3cli.patching.diffusion.library import Diffusers
from fa3cli.patching.imports import absolute_module
from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.origins.origin import read_source
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
        """The package of the module's relative imports."""
        return self.name.rpartition(".")[0]


def read_module(library: Diffusers, name: str) -> Module | None:
    """Read a module by its full name; None for a package or a module outside of diffusers."""
    path = library.module_file(name)
    if path is None:
        return None
    source = parse(read_source(path), str(path))
    return Module(name, source, ClassGraph(source))


def bound_names(module: Module) -> dict[str, tuple[str, bool]]:
    """Map each name that a module binds to its full name, and to whether it is always bound (no `if` or `try`)."""
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
    """Return the full name in the module that defines a name; imports of other modules are followed."""
    module, _, name = dotted.rpartition(".")
    home = read_module(library, module)
    found = bound_names(home).get(name, (dotted, True))[0] if home else dotted
    return dotted if found == dotted else origin(library, found)


def _names(module: Module, node: ast.stmt) -> dict[str, str]:
    """Map the names that a statement binds to their full names."""
    if isinstance(node, ast.Import):
        whole = {alias.asname: alias.name for alias in node.names if alias.asname}
        return {alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names if not alias.asname} | whole
    if isinstance(node, ast.ImportFrom):
        start = absolute_module(module.source, node, module.package)
        return {alias.asname or alias.name: f"{start}.{alias.name}" for alias in node.names}
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return {node.name: f"{module.name}.{node.name}"}
    if isinstance(node, ast.Assign):
        return {target.id: f"{module.name}.{target.id}" for target in node.targets if isinstance(target, ast.Name)}
    return {}
