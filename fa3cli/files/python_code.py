"""Parses Python text into a syntax tree of bounded depth and size, so that code can walk it within its limits."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import Literal, overload

__all__ = ["Unbounded", "bounded_tree"]

# Among all files of transformers and diffusers, the largest has 264,000 characters and 38,500 nodes, the deepest tree
# has 54 levels, the largest function 2,700 nodes. ast.unparse uses four of Python's 1,000 nested calls per level.
_LINES = 30_000
_CHARACTERS = 600_000
_DEEPEST = 100
_NODES = 80_000
_NODES_OF_A_FUNCTION = 20_000
_DIGITS = 4300  # Python refuses to convert longer numbers to text
# Python's messages for text that is nested deeper than its parser allows.
_TOO_DEEP = re.compile(r"too many (statically )?nested|too many levels|nested too deeply|too complex|Exceeds the limit")
_STRINGS = ("STRING", "FSTRING_START")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Unbounded(ValueError):
    """Raised for Python text that is larger or deeper than allowed, at `line`."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


@overload
def bounded_tree(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...
@overload
def bounded_tree(text: str, mode: Literal["exec", "eval"]) -> ast.Module | ast.Expression: ...
def bounded_tree(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """Parse a text; raises Unbounded, or SyntaxError or ValueError if it is not Python."""
    if len(text) > _CHARACTERS or text.count("\n") > _LINES:
        line = min(text.count("\n", 0, _CHARACTERS), _LINES) + 1
        raise Unbounded(f"more than {_LINES} lines or {_CHARACTERS} characters", line)
    try:
        tree = ast.parse(text, mode=mode)
    except (RecursionError, MemoryError):
        raise Unbounded("nested too deeply", _line_of_depth_error(text)) from None
    except SyntaxError as error:
        if _TOO_DEEP.search(str(error.msg)):
            raise Unbounded(str(error.msg), error.lineno or 1) from None
        raise
    _require_bounded(tree, text)
    return tree


def _require_bounded(tree: ast.AST, text: str) -> None:
    level, count, line = [(tree, 1)], 0, 1
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    parts_of = _JoinedStrings(text)
    while level:
        count += len(level)
        line = getattr(level[0][0], "lineno", line)
        if count > _NODES:
            raise Unbounded(f"more than {_NODES} expressions and statements", line)
        below: list[tuple[ast.AST, int]] = []
        for node, depth in level:
            depth += _extra_levels(node, parts_of)
            if depth > _DEEPEST:
                raise Unbounded(f"nested deeper than {_DEEPEST} levels", getattr(node, "lineno", line))
            if isinstance(node, ast.Constant):
                _require_short_number(node)
            elif isinstance(node, _FUNCTIONS):
                functions.append(node)
            below += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
        level = below
    if count > _NODES_OF_A_FUNCTION:
        _require_small_functions(functions)


def _extra_levels(node: ast.AST, parts_of: _JoinedStrings) -> int:
    """Return how many more levels a node has in libcst, which nests elements that `ast` keeps in one list."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 2
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return len(node.generators) - 1
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").count(".")
    if isinstance(node, ast.alias):
        return node.name.count(".")
    return parts_of(node) if isinstance(node, (ast.JoinedStr, ast.Constant)) else 0


class _JoinedStrings:
    """Counts the literals of a string expression: `"a" "b"` has two, which `ast` joins into one node."""

    def __init__(self, text: str) -> None:
        self._text, self._lines = text, io.StringIO(text, newline="").readlines()
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, node: ast.expr) -> int:
        if not isinstance(getattr(node, "value", ""), (str, bytes)):
            return 0
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        if sum(line.count('"') + line.count("'") for line in lines) <= 2 * _DEEPEST:
            return 0  # most strings: no need to tokenize
        place = node.lineno, node.col_offset
        if place not in self._known:
            segment = ast.get_source_segment(self._text, node) or ""
            tokens = tokenize.generate_tokens(io.StringIO(f"({segment})").readline)
            self._known[place] = sum(1 for token in tokens if tokenize.tok_name[token.type] in _STRINGS)
        return self._known[place]


def _require_short_number(node: ast.Constant) -> None:
    if isinstance(node.value, int) and node.value.bit_length() > 3 * _DIGITS:
        raise Unbounded(f"a number of more than {_DIGITS} digits", node.lineno)


def _require_small_functions(functions: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> None:
    """Raise Unbounded for a function that is too large, with all functions within it; the outer ones come first."""
    for function in functions:
        if sum(1 for _ in ast.walk(function)) > _NODES_OF_A_FUNCTION:
            raise Unbounded(f"{function.name} has more than {_NODES_OF_A_FUNCTION} expressions", function.lineno)


def _line_of_depth_error(text: str) -> int:
    """Return the line of the first top-level statement that alone is nested too deeply."""
    lines = re.split(r"\r\n|\r|\n", text)
    starts = [number for number, line in enumerate(lines) if line[:1].strip(")]}#")] or [0]
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        try:
            ast.parse("\n".join(lines[start:end]))
        except (RecursionError, MemoryError):
            return start + 1
        except (SyntaxError, ValueError):  # not a whole statement
            continue
    return 1
