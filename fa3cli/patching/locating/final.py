"""Last doubts about a place: are the states there three, with axes of heads that nobody has repeated yet?"""

from __future__ import annotations

import ast

from fa3cli.patching.locating.cores import Refuse
from fa3cli.patching.locating.flat import Way, way_of
from fa3cli.patching.locating.flow import assigned, pairs_of, simple_statements
from fa3cli.patching.locating.views import View, callee, steps, view_of

__all__ = ["check_states", "expanded_above", "gives_repeated", "is_projection", "may_repeat", "still_flat"]


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
            raise refuse(line, f"the heads of {view.name.id} are, or may be, repeated before it is final")
        if line := still_flat(body, view.name.id):
            raise refuse(line, f"{view.name.id} has no axis of heads here")
    return ways


def expanded_above(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The statement that repeats a state's heads above the place, but below its cache, or may do so unseen."""
    made, cached = _history(body, name)
    for statement, value in made:
        chain = steps(value, None)
        unseen = may_repeat(chain[-1].expression, cached)
        if unseen or any(each.expands for each in chain):
            return statement
    return None


def gives_repeated(function: ast.FunctionDef) -> bool:
    """Whether a function gives back a state it was given with its heads repeated."""
    returns = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value]
    views = [view for value in returns if (view := view_of(value, None))]
    return any(view.expanded or expanded_above(function.body, view.name.id) for view in views)


def _history(body: list[ast.stmt], name: str) -> tuple[list[tuple[ast.stmt, ast.expr]], bool]:
    """The assignments that make a state of one other each, the nearest first, and whether a cache is above them."""
    made = []
    for statement in reversed(list(simple_statements(body))):
        if name not in assigned(statement):
            continue
        value = dict(pairs_of(statement)).get(name)
        source = _one_source(value, name) if value is not None else None
        if value is not None:
            made.append((statement, value))
        if source is None:
            return made, ".update(" in ast.unparse(statement)
        name = source
    return made, False


def _one_source(value: ast.expr, name: str) -> str | None:
    """The state a value is made of, if that is one."""
    inner = steps(value, None)[-1].expression
    if isinstance(inner, ast.Subscript):
        inner = inner.value
    if isinstance(inner, ast.Call) and hasattr(inner, "foreign") and inner.args:
        inner = inner.args[0]
    if isinstance(inner, ast.Name):
        return inner.id
    return name if any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(inner)) else None


def may_repeat(value: ast.expr, cached: bool) -> bool:
    """Whether an index, `x[:, self.index]`, or what a `cached` state is given to, may repeat heads unseen."""
    index = value.slice if isinstance(value, ast.Subscript) else None
    parts = index.elts if isinstance(index, ast.Tuple) else []
    picks = any(isinstance(each, (ast.Name, ast.Attribute, ast.Call)) for each in parts)
    return picks or (cached and getattr(value, "foreign", False))


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
