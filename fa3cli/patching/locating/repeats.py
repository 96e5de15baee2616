"""Other ways than repeat_kv to repeat the heads of a state: concatenation with itself, einops, functions of the file."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable

__all__ = ["mark_calls", "repeated"]

_JOINS = {"cat", "concat", "concatenate", "stack"}


def repeated(expression: ast.expr) -> ast.expr | None:
    """The state whose heads an expression repeats; None if it isn't known to."""
    if not isinstance(expression, ast.Call) or not expression.args:
        return None
    name, first = getattr(expression.func, "attr", getattr(expression.func, "id", "")), expression.args[0]
    if getattr(expression, "repeats_heads", False):
        return first
    if name in _JOINS:
        return _only_part(first)
    is_pattern = len(expression.args) > 1 and isinstance(getattr(expression.args[1], "value", None), str)
    return first if name == "repeat" and is_pattern else None


def mark_calls(tree: ast.Module, expanding: Callable[[ast.FunctionDef], bool]) -> None:
    """Mark every call of a function or method of the file that gives its first argument back with repeated heads.

    `expanding` says so of a function. Calls of functions and modules from elsewhere are marked as `foreign`.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    repeating = {function.name for function in functions if expanding(function)}
    known = {function.name for function in functions} | set(dir(builtins))
    known |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            own = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "self"
            name = call.func.attr if own else getattr(call.func, "id", "")
            call.repeats_heads = name in repeating
            # A norm of a library keeps the heads it is given.
            call.foreign = (
                (own or isinstance(call.func, ast.Name)) and name not in known and "norm" not in name
            )


def _only_part(parts: ast.expr) -> ast.expr | None:
    """The one expression a list repeats: `[b] * 2`, `(b, b)`."""
    if isinstance(parts, ast.BinOp) and isinstance(parts.op, ast.Mult):
        lists = [each for each in (parts.left, parts.right) if isinstance(each, (ast.List, ast.Tuple))]
        return lists[0].elts[0] if lists and len(lists[0].elts) == 1 else None
    if isinstance(parts, (ast.List, ast.Tuple)) and len(parts.elts) > 1:
        same = len({ast.unparse(each) for each in parts.elts}) == 1
        return parts.elts[0] if same else None
    return None
