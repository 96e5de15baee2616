"""A modeling file as text and syntax tree, and the way from a node to its place in the text."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.patching.bounds import Unbounded, bounded_tree

__all__ = ["Source", "parse"]

BOM = "\ufeff"
_LONGEST_LINE = 10_000


@dataclass(frozen=True)
class Source:
    """`text` as it was decoded (line ends and byte order mark kept), its tree, and where its lines start."""

    name: str
    text: str
    tree: ast.Module
    starts: list[int] = field(repr=False)

    @property
    def newline(self) -> str:
        """The line end of the first line."""
        found = re.search(r"\r\n|\r|\n", self.text)
        return found.group() if found else "\n"

    def start(self, node: ast.expr | ast.stmt) -> int:
        """The offset of the node's first character."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        """The offset after the node's last character."""
        return self._offset(node.end_lineno, node.end_col_offset)

    def line_start(self, node: ast.stmt) -> int:
        """The offset of the line a statement (with its decorators) begins on."""
        decorators = getattr(node, "decorator_list", [])
        return self.starts[min([node.lineno, *(each.lineno for each in decorators)]) - 1]

    def next_line(self, node: ast.stmt) -> int:
        """The offset after the line a statement ends on."""
        return self.starts[node.end_lineno] if node.end_lineno < len(self.starts) else len(self.text)

    def line_end(self, node: ast.stmt) -> int:
        """The offset after the line a statement ends on; refuses a line that goes on with another statement."""
        after = self.next_line(node)
        rest = self.text[self.end(node) : after].strip()
        if rest and not rest.startswith("#"):
            raise self.refuse(node, f"cannot insert after a statement that shares its line with {rest!r}")
        return after

    def indent(self, node: ast.stmt) -> str:
        """The white space in front of a statement; refuses a statement with another one in front of it."""
        before = self.text[self.line_start(node) : self.start(node)]
        if before.strip():
            raise self.refuse(node, "cannot insert after a statement that shares its line with another")
        return before

    def refuse(self, node: ast.AST, reason: str, hint: str | None = None) -> UnsupportedError:
        """An error that names file and line of `node` and the reason."""
        return UnsupportedError(f"{self.name}:{getattr(node, 'lineno', 1)}: {reason}", hint=hint)

    def _offset(self, line: int, column: int) -> int:
        # ast counts columns in UTF-8 bytes.
        start = self.starts[line - 1]
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode())


def parse(data: bytes | str, name: str) -> Source:
    """Parse a modeling file.

    InvalidInputError (file:line) if it isn't UTF-8 or isn't Python, UnsupportedError if it is larger or deeper than
    modeling files are.
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
    starts = [
        len(BOM) if text.startswith(BOM) else 0,
        *(match.end() for match in re.finditer(r"\r\n|\r|\n", text)),
    ]
    for line, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)]), 1):
        if end - start > _LONGEST_LINE:
            raise UnsupportedError(f"{name}:{line}: a line of more than {_LONGEST_LINE} characters")
    return Source(name, text, tree, starts)
