"""Last doubts about a place: are the states there three, with axes of heads that nobody has repeated yet?"""

from __future__ import annotations

import ast

from fa3cli.patching.cores import Refuse
from fa3cli.patching.flat import Way, way_of
from fa3cli.patching.flow import assigned, pairs_of, simple_statements
from fa3cli.patching.views import View, callee, view_of

__all__ = ["check_states", "expanded_above", "is_projection", "still_flat"]


def check_states(states: dict[str, View], body: list[ast.stmt], refuse: Refuse) -> dict[str, Way]:
    """Refuse states that aren't three tensors of `[B, H, S, D]` with the heads they are cached with, below `body`.

    Returns the way to that layout and back of those that are flat but were joined from it.
    """
    ways = {role: way for role, view in states.items() if (way := way_of(view, body))}
    if states["k"].name.id == states["v"].name.id or states["q"].name.id in (
        states["k"].name.id,
        states["v"].name.id,
    ):
        raise refuse(body[-1], f"two of q, k, v are one tensor, {states['k'].name.id}")
    for role, view in states.items():
        if view.axes not in (None, "BHSD") and role not in ways:
            raise refuse(
                body[-1], f"{view.name.id} is laid out {view.axes} here, not batch, heads, positions, size"
            )
        if role != "q" and (line := expanded_above(body, view.name.id)):
            raise refuse(line, f"the heads of {view.name.id} are repeated before it is final")
        if line := still_flat(body, view.name.id):
            raise refuse(line, f"{view.name.id} has no axis of heads here")
    return ways


def expanded_above(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The statement that repeats a state's heads above the place, but below its cache."""
    for statement in reversed(list(simple_statements(body))):
        value = dict(pairs_of(statement)).get(name)
        if value is None:
            if name in assigned(statement):
                return None
            continue
        view = view_of(value, None)
        if view is not None and view.expanded:
            return statement
        if view is not None:
            name = view.name.id
        elif not any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(value)):
            return None
    return None


def still_flat(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The statement that makes a state straight by a projection: it has no axis of heads yet."""
    for statement in reversed(list(simple_statements(body))):
        if name in assigned(statement):
            value = dict(pairs_of(statement)).get(name)
            return statement if value is not None and is_projection(value, name) else None
    return None


def is_projection(value: ast.expr, name: str = "") -> bool:
    """Whether a value is straight a projection, `self.proj(y) * scale`, of something else than `name`: [B, S, H*D]."""
    while isinstance(value, ast.BinOp):
        value = value.left
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and getattr(value.func.value, "id", "") == "self"
        and all(isinstance(argument, ast.Name) and argument.id != name for argument in value.args)
        and callee(value).endswith("proj")
    )
