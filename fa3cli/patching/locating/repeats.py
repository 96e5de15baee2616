"""What repeats the heads of a state: methods and functions of torch, einops, concatenation, functions of the file."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Collection

from fa3cli.patching.locating.flow import callee

__all__ = ["EXPAND", "mark_calls", "may_repeat_heads", "repeated_state"]

EXPAND = {
    "repeat_kv", "repeat_interleave", "repeat", "expand", "expand_as", "broadcast_to", "tile",
    "index_select", "gather", "take_along_dim",
}  # fmt: skip
_JOINS = {"cat", "concat", "concatenate", "stack"}


def repeated_state(expression: ast.expr) -> ast.expr | None:
    """The state whose heads a call repeats that isn't one of EXPAND; None if it isn't known to."""
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
    """Whether something in a value repeats heads, or may do so unseen: a function from elsewhere that is given a `cached`
    state, or one of the file that repeats anything and gives a state back under its `own` name.

    Latent attention repeats a part of its keys: what is joined with something else doesn't count.
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
    """Mark the calls of functions of the file that give their first argument back with repeated heads.

    `expanding` says so of a function. Also marked are calls of functions that repeat anything at all, and (`foreign`)
    of functions and modules from elsewhere; a norm or a projection repeats nothing.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    repeating = {function.name for function in functions if expanding(function)}
    mentioning = {function.name for function in functions if may_repeat_heads(function)}
    known = {function.name for function in functions} | set(dir(builtins))
    known |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            own = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "self"
            name = callee(call) if own or isinstance(call.func, ast.Name) else ""
            call.repeats_heads = name in repeating
            call.mentions_repeats = name in mentioning
            call.foreign = bool(name) and name not in known and not re.search("norm|proj", name)


def _may_pick_heads(index: ast.expr) -> bool:
    """Whether an index, `x[:, self.index]`, may pick heads more than once."""
    parts = index.elts if isinstance(index, ast.Tuple) else []
    return any(isinstance(part, (ast.Name, ast.Attribute, ast.Call, ast.List)) for part in parts)


def _repeated_part(parts: ast.expr) -> ast.expr | None:
    """The one expression a list repeats: `[b] * 2`, `(b, b)`."""
    if isinstance(parts, ast.BinOp) and isinstance(parts.op, ast.Mult):
        lists = [
            operand for operand in (parts.left, parts.right) if isinstance(operand, (ast.List, ast.Tuple))
        ]
        return lists[0].elts[0] if lists and len(lists[0].elts) == 1 else None
    if isinstance(parts, (ast.List, ast.Tuple)) and len(parts.elts) > 1:
        same = len({ast.unparse(part) for part in parts.elts}) == 1
        return parts.elts[0] if same else None
    return None
