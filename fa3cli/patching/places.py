"""Defines the changes that the analysis asks for, at nodes of `ast`, and that the codemod writes."""

from __future__ import annotations

import ast
from dataclasses import dataclass

__all__ = ["Above", "Absolute", "Around", "Below", "End", "Guarded", "Passed", "Place"]


@dataclass(frozen=True)
class Above:
    """Insert lines above a statement, with a blank line between."""

    node: ast.stmt
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Below:
    """Insert lines below a statement, in its block; an empty line is a blank line."""

    node: ast.stmt
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Around:
    """Write a call around an expression, which replaces the first argument of `call`."""

    node: ast.expr
    call: str


@dataclass(frozen=True)
class Absolute:
    """Make a relative import absolute, from `module`."""

    node: ast.ImportFrom
    module: str


@dataclass(frozen=True)
class Guarded:
    """Put a line, given by its first statement, into a `try` whose `except ImportError` raises the error again."""

    node: ast.stmt


@dataclass(frozen=True)
class Passed:
    """Replace an import by `pass`."""

    node: ast.ImportFrom


@dataclass(frozen=True)
class End:
    """Append statements to the file, as text with LF line ends; its comments and blank lines are kept."""

    node: ast.Module
    text: str


Place = Above | Below | Around | Absolute | Guarded | Passed | End
