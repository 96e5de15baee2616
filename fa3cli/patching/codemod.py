"""Writes the changes that the analysis asks for into a modeling file, as a libcst codemod; nothing else changes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import TypeVar

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider

from fa3cli.patching.places import Above, Absolute, Around, Below, End, Guarded, Passed, Place
from fa3cli.patching.source import Source

__all__ = ["PatchAttention"]

Kind = TypeVar("Kind", bound=Place)
Line = cst.SimpleStatementLine | cst.BaseCompoundStatement
_BLANK = cst.EmptyLine(indent=False)
# Changes nothing at run time; transformers does not require packages that are imported in a `try`.
_RAISE = cst.ExceptHandler(cst.SimpleStatementSuite([cst.Raise()]), cst.Name("ImportError"))
_SPACE = cst.SimpleWhitespace(" ")


class PatchAttention(cst.CSTTransformer):
    """Write every place of a file: lines, calls, import guards, absolute imports, and text at the end.

    Statements without a place are not visited, which saves most of the time.
    """

    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self, source: Source, places: Iterable[Place]) -> None:
        super().__init__()
        self._source = source
        self._remaining: dict[tuple[type, int, int], list[Place]] = {}
        for place in places:
            start, length = source.span(place.node)
            self._remaining.setdefault(self._key(type(place), start, length), []).append(place)
        self._starts = sorted(start for _, start, _ in self._remaining)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, Line):
            span = self.get_metadata(ByteSpanPositionProvider, node)
            if bisect_left(self._starts, span.start) == bisect_right(self._starts, span.start + span.length):
                return False
        return super().on_visit(node)

    def on_leave(  # type: ignore[override]  # libcst's type allows no node of another class in a node's place
        self, original: cst.CSTNode, updated: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]:
        left = super().on_leave(original, updated)
        if isinstance(original, Line) and isinstance(left, Line):
            return self._with_neighbours(original, left)
        if isinstance(original, cst.BaseExpression) and isinstance(left, cst.BaseExpression):
            return self._wrap_in_call(original, left)
        return left

    def leave_ImportFrom(self, original: cst.ImportFrom, updated: cst.ImportFrom) -> cst.ImportFrom | cst.Pass:
        for place in self._take(Absolute, original):
            spaces = updated.whitespace_after_from, updated.whitespace_before_import
            # `from.x import y` is valid Python, `fromx` is not.
            after, before = (_SPACE if space.empty else space for space in spaces)
            updated = updated.with_changes(
                relative=(),
                module=cst.parse_expression(place.module),
                whitespace_after_from=after,
                whitespace_before_import=before,
            )
        return cst.Pass(updated.semicolon) if self._take(Passed, original) else updated

    def leave_SimpleStatementSuite(
        self, original: cst.SimpleStatementSuite, updated: cst.SimpleStatementSuite
    ) -> cst.BaseSuite:
        """Turn `if x: import y` into an indented block, which its `try` needs."""
        if not self._take(Guarded, original.body[0]):
            return updated
        line = cst.SimpleStatementLine(updated.body, trailing_whitespace=updated.trailing_whitespace)
        return cst.IndentedBlock([_guarded(line)], cst.TrailingWhitespace(updated.leading_whitespace))

    def leave_Module(self, original: cst.Module, updated: cst.Module) -> cst.Module:
        for place in self._take(End, original):
            # libcst keeps the line ends inside multi-line strings, so these must be the file's before parsing.
            end = cst.parse_module(place.text.replace("\n", original.default_newline))
            first, *rest = end.body
            # libcst puts comments before the first statement into the header, those after the last one into the footer.
            first = first.with_changes(leading_lines=[*updated.footer, *end.header, *first.leading_lines])
            body = [*updated.body, first, *rest]
            updated = updated.with_changes(body=body, footer=end.footer, has_trailing_newline=True)
        for left, *_ in self._remaining.values():
            reason = "cannot insert beside a statement that shares its line with another"
            raise self._source.refuse(left.node, reason)
        return updated

    @staticmethod
    def _key(kind: type, start: int, length: int) -> tuple[type, int, int]:
        """Identify statements by their start only: `ast` and libcst disagree on whether a `;` belongs to them."""
        return kind, start, length if kind is Around else 0

    def _take(self, kind: type[Kind], node: cst.CSTNode) -> list[Kind]:
        """Remove and return the places of one kind at a node, which the caller writes."""
        span = self.get_metadata(ByteSpanPositionProvider, node)
        places = self._remaining.pop(self._key(kind, span.start, span.length), [])
        return [place for place in places if isinstance(place, kind)]

    def _with_neighbours(self, original: Line, line: Line) -> Line | cst.FlattenSentinel[Line]:
        """Add the guard of a line, the lines above its first statement and those below its last one."""
        parts = original.body if isinstance(original, cst.SimpleStatementLine) else [original]
        if isinstance(line, cst.SimpleStatementLine) and self._take(Guarded, parts[0]):
            line = _guarded(line)
        above = _statements(self._take(Above, parts[0]))
        below = _statements(self._take(Below, parts[-1]))
        if above:
            # Comments and blank lines above the statement stay above the inserted lines.
            above[0] = above[0].with_changes(leading_lines=line.leading_lines)
            line = line.with_changes(leading_lines=[_BLANK])
        return cst.FlattenSentinel([*above, line, *below]) if above or below else line

    def _wrap_in_call(self, original: cst.BaseExpression, updated: cst.BaseExpression) -> cst.BaseExpression:
        for place in self._take(Around, original):
            call = cst.ensure_type(cst.parse_expression(place.call), cst.Call)
            first, *rest = call.args
            first = first.with_changes(value=updated.with_changes(lpar=(), rpar=()))
            updated = call.with_changes(args=[first, *rest], lpar=updated.lpar, rpar=updated.rpar)
        return updated


def _statements(places: Iterable[Above | Below]) -> list[Line]:
    made: list[Line] = []
    blank: list[cst.EmptyLine] = []
    for line in [line for place in places for line in place.lines]:
        if line:
            made.append(cst.parse_statement(line).with_changes(leading_lines=blank))
        blank = [] if line else [*blank, _BLANK]
    return made


def _guarded(line: cst.SimpleStatementLine) -> cst.Try:
    body = cst.SimpleStatementSuite(line.body, trailing_whitespace=line.trailing_whitespace)
    return cst.Try(body, [_RAISE], leading_lines=line.leading_lines)
