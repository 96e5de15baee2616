"""Parses a modeling file, and finds the position of a syntax node in its text."""

from __future__ import annotations

import ast
import io
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.files.python_code import Unbounded, bounded_tree

__all__ = ["BOM", "Source", "last_line", "parse"]

BOM = "\ufeff"
_LONGEST_LINE = 10_000


@dataclass(frozen=True)
class Source:
    """A decoded text (line ends and byte order mark kept) and its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @cached_property
    def lines(self) -> list[str]:
        """The lines as Python counts them, with their ends and without the byte order mark."""
        return io.StringIO(self.text.removeprefix(BOM), newline="").readlines()

    def span(self, node: ast.stmt | ast.expr | ast.Module) -> tuple[int, int]:
        """Return a node's start and length in UTF-8 bytes, without the byte order mark; 0, 0 for the module."""
        if isinstance(node, ast.Module):
            return 0, 0
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[last_line(node) - 1] + (node.end_col_offset or 0) - start

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line.encode()) for line in self.lines)]

    def refuse(self, node: ast.AST, reason: str, hint: str | None = None) -> UnsupportedError:
        """Return an error that names the file, the line of `node` and the reason."""
        return UnsupportedError(f"{self.name}:{getattr(node, 'lineno', 1)}: {reason}", hint=hint)


def last_line(node: ast.stmt | ast.expr) -> int:
    """Return the line in which a node ends; `ast` has it for every node of a parsed text."""
    return node.end_lineno or node.lineno


def parse(data: bytes | str, name: str) -> Source:
    """Parse a modeling file.

    Raises InvalidInputError (file:line) if it is not UTF-8 or not Python, UnsupportedError if it is much larger or
    deeper than real modeling files.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        tree = bounded_tree(text.removeprefix(BOM))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except SyntaxError as error:
        raise InvalidInputError(
            f"{name}:{error.lineno or 1}: does not parse: {error.msg}",
            hint="restore the file or pass another --modeling",
        ) from None
    except Unbounded as error:
        raise UnsupportedError(f"{name}:{error.line}: {error}, which fa3 does not follow") from None
    except ValueError as error:  # a null byte
        raise InvalidInputError(f"{name}:1: does not parse: {error}") from None
    source = Source(name, text, tree)
    for number, line in enumerate(source.lines, 1):
        if len(line) > _LONGEST_LINE:
            raise UnsupportedError(f"{name}:{number}: a line of more than {_LONGEST_LINE} characters")
    return source
