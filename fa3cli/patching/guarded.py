"""Imports a modeling file can live without, in a form that transformers doesn't ask the package for.

Before it loads a file from a weights folder, transformers wants every package the file imports to be installed. What
it makes of `if is_x_available():` or of a function differs by version; inside `try` it never looks.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from fa3cli.patching.places import Guarded
from fa3cli.patching.source import Source

__all__ = ["guard_imports", "required_packages"]

# fa3cli itself needs these: no file with its quantizer runs without them.
_ALWAYS_INSTALLED = {
    "accelerate",
    "numpy",
    "packaging",
    "safetensors",
    "torch",
    "transformers",
    *sys.stdlib_module_names,
}


def guard_imports(source: Source) -> list[Guarded]:
    """The lines of imports that only run under a condition, to be guarded by `except ImportError: raise`.

    They do what they did. All of them are treated alike, installed or not: the same file everywhere.
    """
    return [Guarded(line[0]) for line in _conditional(source.tree) if any(map(_packages, line))]


def required_packages(source: Source) -> dict[str, int]:
    """Packages that are imported whenever the file is, and the line."""
    found: dict[str, int] = {}
    for node in _unconditional(source.tree.body):
        for package in _packages(node):
            found.setdefault(package, node.lineno)
    return found


def _conditional(node: ast.AST, under: bool = False) -> Iterator[list[ast.stmt]]:
    """The simple statements under a condition, outside the body of a `try`, line by line."""
    under = under or not isinstance(node, (ast.Module, ast.ClassDef))
    for name, block in ast.iter_fields(node):
        if not isinstance(block, list) or (isinstance(node, ast.Try) and name == "body"):
            continue
        if under and block and isinstance(block[0], ast.stmt):
            yield from _lines(block)
        for child in block:
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                yield from _conditional(child, under)


def _unconditional(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _unconditional(node.body)


def _packages(node: ast.stmt) -> set[str]:
    """The packages a statement imports that may be missing."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
    return {name.split(".")[0] for name in names} - _ALWAYS_INSTALLED


def _lines(block: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The statements of a block, those together that semicolons put on one line."""
    line = block[:1]
    for node in block[1:]:
        if node.lineno > line[-1].end_lineno:
            yield line
            line = []
        line.append(node)
    yield line
