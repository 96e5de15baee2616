"""Checks a site: q, k and v are three different tensors, [B, H, S, D], and their heads are not repeated yet."""

from __future__ import annotations

import ast
import re

from fa3cli.patching.locating.cores import Refuse
from fa3cli.patching.locating.layout_change import LayoutChange, layout_change
from fa3cli.patching.locating.repeats import may_repeat_heads
from fa3cli.patching.locating.statements import assigned, assignment_pairs, simple_statements, value_of
from fa3cli.patching.locating.views import View, callee, steps, view_of

__all__ = [
    "check_states",
    "is_projection",
    "repeating_statement",
    "returns_repeated_heads",
    "unsplit_projection",
    "updates_cache",
]


def check_states(states: dict[str, View], body: list[ast.stmt], refuse: Refuse) -> dict[str, LayoutChange]:
    """Refuse states that are not three tensors `[B, H, S, D]`, with the heads that the cache holds, below `body`.

    Returns the layout changes, by role, of states that have another layout from which `[B, H, S, D]` can be restored.
    """
    layout_changes = {role: way for role, view in states.items() if (way := layout_change(view, body))}
    if len({view.name.id for view in states.values()}) < len(states):
        raise refuse(body[-1], f"two of q, k, v are one tensor, {states['k'].name.id}")
    for role, view in states.items():
        if view.axes != "BHSD" and role not in layout_changes:
            layout = f"laid out {view.axes} here" if view.axes else "reshaped before it enters attention"
            raise refuse(body[-1], f"{view.name.id} is {layout}, not batch, heads, positions, size")
        if role != "q" and (line := repeating_statement(body, view.name.id)):
            raise refuse(line, f"the heads of {view.name.id} are, or may be, repeated before it is final")
        if line := unsplit_projection(body, view.name.id):
            raise refuse(line, f"{view.name.id} has no axis of heads here")
    return layout_changes


def repeating_statement(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """Return the statement between cache and site that repeats a state's heads, or may repeat them; else None."""
    above = list(simple_statements(body))
    cached = {target for statement in above if updates_cache(statement) for target in assigned(statement)}
    for statement in reversed(above):
        if name not in assigned(statement):
            continue
        if updates_cache(statement):
            return None
        if may_repeat_heads(value_of(statement) or statement, cached, assigned(statement)):
            return statement
        if (before := _state_before(statement, name)) is None:
            return None
        name = before
    return None


def returns_repeated_heads(function: ast.FunctionDef) -> bool:
    """Tell whether a function returns one of its arguments with repeated heads."""
    returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
    views = [view for value in returns if (view := view_of(value, None))]
    return any(view.expanded or repeating_statement(function.body, view.name.id) for view in views)


def updates_cache(statement: ast.stmt) -> bool:
    """Tell whether a statement appends states to the cached states of earlier positions."""
    value = value_of(statement)
    calls = [call for call in ast.walk(value) if isinstance(call, ast.Call)] if value is not None else []
    return any(re.search("update|cache", callee(call)) or "past" in ast.unparse(call) for call in calls)


def _state_before(statement: ast.stmt, name: str) -> str | None:
    """Return the variable from which a statement computes `name`; None if it is not one variable."""
    value = dict(assignment_pairs(statement)).get(name) or value_of(statement)
    if value is None:  # an annotation
        return name
    inner = steps(value, None)[-1].expression
    if isinstance(inner, ast.Subscript):
        inner = inner.value
    if isinstance(inner, ast.Call) and inner.args and not isinstance(inner.func, ast.Attribute):
        inner = inner.args[0]
    if isinstance(inner, ast.Name):
        return inner.id
    return name if any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(inner)) else None


def unsplit_projection(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """Return the statement that assigns a bare projection, without an axis of heads, to a state; else None."""
    for statement in reversed(list(simple_statements(body))):
        if name in assigned(statement):
            value = dict(assignment_pairs(statement)).get(name)
            return statement if value is not None and is_projection(value, name) else None
    return None


def is_projection(value: ast.expr, name: str = "") -> bool:
    """Tell whether a value is a bare projection [B, S, H*D], `self.proj(y) * scale`, not of `name` itself."""
    while isinstance(value, ast.BinOp):
        value = value.left
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and getattr(value.func.value, "id", "") == "self"
        and all(isinstance(argument, ast.Name) and argument.id != name for argument in value.args)
        and callee(value).endswith("proj")
    )
