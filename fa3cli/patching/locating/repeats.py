"""Finds calls that repeat the heads of a state: torch, einops, concatenation, and functions of the file."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Collection

from fa3cli.patching.locating.statements import callee, calls_in

__all__ = ["EXPAND", "mark_calls", "may_repeat_heads", "repeated_state"]

EXPAND = {
    "repeat_kv", "repeat_interleave", "repeat", "expand", "expand_as", "broadcast_to", "tile",
    "index_select", "gather", "take_along_dim",
}  # fmt: skip
_JOINS = {"cat", "concat", "concatenate", "stack"}


def repeated_state(expression: ast.expr) -> ast.expr | None:
    """Return the state whose heads a call outside of EXPAND repeats; None if the call is not known to repeat heads."""
    if not isinstance(expression, ast.Call) or not expression.args:
        return None
    name, first = callee(expression), expression.args[0]
    if getattr(expression, "repeats_heads", False):
        return first
    if name in _JOINS:
        return _repeated_part(first)
    is_pattern = len(expression.args) > 1 and isinstance(getattr(expression.args[1], "value", None), str)
    return first if name == "repeat" and is_pattern else None


def may_repeat_heads(value: ast.AST, cached: Collection[str] = (), own: Collection[str] = ()) -> bool:
    """Tell whether an expression repeats heads, or may repeat them where fa3 cannot see it.

    Calls that may repeat heads: functions of other files, on a `cached` state; functions of this file that repeat
    anything, if the result is assigned to the variable of an argument (`own`). Latent attention repeats a part of its
    keys, so a repeated tensor that is concatenated with another one does not count.
    """
    if isinstance(value, ast.Call):
        if callee(value) in _JOINS and repeated_state(value) is None:
            return False
        if callee(value) in EXPAND or repeated_state(value) is not None:
            return True
        given = {argument.id for argument in value.args if isinstance(argument, ast.Name)}
        if getattr(value, "foreign", False) and given & {*cached}:
            return True
        if getattr(value, "mentions_repeats", False) and given & {*own}:
            return True
    if isinstance(value, ast.Subscript) and _may_pick_heads(value.slice):
        return True
    return any(may_repeat_heads(child, cached, own) for child in ast.iter_child_nodes(value))


def mark_calls(tree: ast.Module, expanding: Callable[[ast.FunctionDef], bool]) -> None:
    """Mark calls of the file's functions that return their first argument with repeated heads (`repeats_heads`).

    `expanding` tells whether a function does that. Other marks: `mentions_repeats` for functions that repeat anything,
    `foreign` for functions and modules of other files, except norms and projections, which repeat nothing.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    repeating = {function.name for function in functions if expanding(function)}
    mentioning = {function.name for function in functions if may_repeat_heads(function)}
    known = {function.name for function in functions} | set(dir(builtins))
    known |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for call in calls_in(tree):
        own = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "self"
        name = callee(call) if own or isinstance(call.func, ast.Name) else ""
        foreign = bool(name) and name not in known and not re.search("norm|proj", name)
        marks = {"mentions_repeats": name in mentioning, "foreign": foreign}
        vars(call).update(marks, repeats_heads=name in repeating)


def _may_pick_heads(index: ast.expr) -> bool:
    """Tell whether an index, `x[:, self.index]`, may select a head more than once."""
    parts = index.elts if isinstance(index, ast.Tuple) else []
    return any(isinstance(part, (ast.Name, ast.Attribute, ast.Call, ast.List)) for part in parts)


def _repeated_part(parts: ast.expr) -> ast.expr | None:
    """Return the expression that all elements of a list are: `[b] * 2`, `(b, b)`; None if they differ."""
    if isinstance(parts, ast.BinOp) and isinstance(parts.op, ast.Mult):
        lists = [operand for operand in (parts.left, parts.right) if isinstance(operand, (ast.List, ast.Tuple))]
        return lists[0].elts[0] if lists and len(lists[0].elts) == 1 else None
    if isinstance(parts, (ast.List, ast.Tuple)) and len(parts.elts) > 1:
        same = len({ast.unparse(part) for part in parts.elts}) == 1
        return parts.elts[0] if same else None
    return None
