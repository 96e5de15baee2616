"""Places in a modeling file: what the analysis answers with, by the nodes of `ast`, and the codemod writes."""

from __future__ import annotations

import ast
from dataclasses import dataclass

__all__ = ["Above", "Absolute", "Around", "Below", "End", "Guarded", "Passed", "Place"]


@dataclass(frozen=True)
class Above:
    """Lines above a statement, with a blank line between."""

    node: ast.stmt
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Below:
    """Lines below a statement, in its block; an empty one is a blank line."""

    node: ast.stmt
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Around:
    """A call around an expression; the expression takes the place of the first argument of `call`."""

    node: ast.expr
    call: str


@dataclass(frozen=True)
class Absolute:
    """An import that names its module in full."""

    node: ast.ImportFrom
    module: str


@dataclass(frozen=True)
class Guarded:
    """A line (its first statement) that gets a `try` whose `except ImportError` raises the error again."""

    node: ast.stmt


@dataclass(frozen=True)
class Passed:
    """An import that gives way to `pass`."""

    node: ast.ImportFrom


@dataclass(frozen=True)
class End:
    """Statements at the end of the file, as text with LF line ends; comments and blank lines in it are kept."""

    node: ast.Module
    text: str


Place = Above | Below | Around | Absolute | Guarded | Passed | End
