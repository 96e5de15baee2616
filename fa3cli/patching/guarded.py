"""Finds the optional imports of a modeling file, to put them into `try`, where transformers does not require them.

Before transformers loads a file from a weights folder, it requires every package that the file imports. Whether it
skips imports under `if is_x_available():` or in functions differs by version; imports in `try` are always skipped.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from fa3cli.patching.places import Guarded
from fa3cli.patching.source import Source, last_line

__all__ = ["guard_imports", "required_packages"]

# fa3cli itself needs these packages, so they are installed wherever a patched file runs.
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
    """Return the lines of conditional imports; the guard `except ImportError: raise` does not change their behaviour.

    Installed packages are guarded too, so that every machine writes the same file.
    """
    return [Guarded(line[0]) for line in _conditional(source.tree) if any(map(_packages, line))]


def required_packages(source: Source) -> dict[str, int]:
    """Map each package that the file always imports to the line of the import."""
    found: dict[str, int] = {}
    for node in _unconditional(source.tree.body):
        for package in _packages(node):
            found.setdefault(package, node.lineno)
    return found


def _conditional(node: ast.AST, under: bool = False) -> Iterator[list[ast.stmt]]:
    """Yield the simple statements under a condition and outside of `try` bodies, line by line."""
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
    """Return the packages that a statement imports and that may not be installed."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
    return {name.split(".")[0] for name in names} - _ALWAYS_INSTALLED


def _lines(block: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Yield the statements of a block, grouped by line: semicolons join several."""
    line = block[:1]
    for node in block[1:]:
        if node.lineno > last_line(line[-1]):
            yield line
            line = []
        line.append(node)
    yield line
