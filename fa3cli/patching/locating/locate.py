"""Finds the statement below which q, k and v can be quantized: after rope and cache, before heads are repeated.

The search follows the data flow of each role upwards from the core; variable names do not matter. It passes statements
that only change layout or dtype or repeat heads. It stops at any other assignment, and the calls are inserted below.
From there on only attention may read the states. Code for which this cannot be shown is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.cores import Core, Refuse
from fa3cli.patching.locating.layout_change import LayoutChange
from fa3cli.patching.locating.site_checks import check_states
from fa3cli.patching.locating.statements import (
    assigned,
    assignment_pairs,
    blocks,
    parents,
    simple_statements,
    used_names,
)
from fa3cli.patching.locating.views import View, view_of

__all__ = ["ROLES", "Site", "locate", "state_arguments"]

ROLES = "qkv"
# role -> the variable that holds the state here, with its axes
Tracks = dict[str, View]


@dataclass(frozen=True)
class Site:
    """Where the calls are written: below the statement `after`, for `states`, the variables of q, k and v.

    `after` is a direct child of the function. `layout_changes` belong to states that are not [B, H, S, D] there. Where
    no such statement exists, the calls are written around the expressions `inside`, each with its role. `owner` is the
    variable whose attribute is the quantizer: self, or the module that a processor is called with. `layout` is the
    layout that the quantizer is created for. `others` are the sites in other methods of a processor.
    """

    after: ast.stmt | None = None
    states: tuple[str, str, str] | tuple[()] = ()
    layout_changes: Mapping[str, LayoutChange] = field(default_factory=dict)
    inside: tuple[tuple[str, ast.expr], ...] = ()
    owner: str = "self"
    layout: str = "BHSD"
    others: tuple[Site, ...] = ()


@dataclass
class _Walk:
    """What the search has seen: names that may hold a state, and the nodes that may read them."""

    function: ast.FunctionDef
    cores: list[Core]
    refuse: Refuse
    names: set[str] = field(default_factory=set)
    allowed: set[int] = field(default_factory=set)


def locate(function: ast.FunctionDef, cores: list[Core], refuse: Refuse) -> Site:
    """Return the site of a function where all three states are available, or raise with the reason."""
    walk, body = _Walk(function, cores, refuse), function.body
    boundaries, stop = _trace_up(walk)
    if stop < 0:
        raise refuse(function, "the states are arguments of the function, not made in it")
    if any(_holds_core(walk, statement) for statement in body[: stop + 1]):
        raise refuse(body[stop], "a state is changed between two attention calls")
    stop = _below_other_readers(walk, stop)
    first = next(index for index, line in enumerate(body) if _holds_core(walk, line))
    problems = []
    for index in range(stop, max(first, stop + 1)):
        try:
            return _site(body[: index + 1], boundaries[index + 1], refuse)
        except UnsupportedError as error:
            problems.append(error)
    raise problems[0]


def _site(above: list[ast.stmt], states: Tracks, refuse: Refuse) -> Site:
    """Return the site below the statements `above`, if all three states are final there."""
    if set(states) != set(ROLES):
        raise refuse(above[-1], "a state is changed after the attention scores were computed")
    q, k, v = (states[role].name.id for role in ROLES)
    return Site(above[-1], (q, k, v), check_states(states, above, refuse))


def state_arguments(function: ast.FunctionDef, cores: list[Core], refuse: Refuse) -> Tracks:
    """Return the arguments of a helper function that are the states; it must not change them before its cores."""
    walk = _Walk(function, cores, refuse)
    boundaries, stop = _trace_up(walk)
    if stop >= 0 or set(boundaries[0]) != set(ROLES):
        raise refuse(function.body[stop], f"{function.name} changes a state before it enters attention")
    reader = _below_other_readers(walk, -1)
    if reader >= 0:
        raise refuse(function.body[reader], f"{function.name} uses a state for more than attention")
    return boundaries[0]


def _trace_up(walk: _Walk) -> tuple[list[Tracks], int]:
    """Return the tracks above each statement, and the index of the statement where the search stops (-1: none)."""
    body = walk.function.body
    boundaries: list[Tracks] = [{} for _ in range(len(body) + 1)]
    for index in reversed(range(len(body))):
        boundaries[index], stopped = _step_up(walk, body[index], boundaries[index + 1])
        if stopped:
            return boundaries, index
    return boundaries, -1


def _step_up(walk: _Walk, statement: ast.stmt, tracks: Tracks) -> tuple[Tracks, bool]:
    """Return the tracks above a statement, and whether the search stops at it."""
    inner = blocks(statement)
    if inner and _holds_core(walk, statement):
        return _step_over_branches(walk, statement, inner, tracks), False
    if inner:
        return tracks, _changes_state(walk, statement, tracks)
    moved, is_core = dict(tracks), False
    for core in walk.cores:
        for role in ROLES:
            if core.statements[role] is statement:
                is_core = True
                view = view_of(core.operands[role], core.axes[role])
                if view is None:
                    raise walk.refuse(statement, f"{role} is an expression here: {ast.unparse(core.operands[role])}")
                _merge(walk, statement, moved, role, view)
    if is_core:
        return moved, bool(assigned(statement) & {view.name.id for view in tracks.values()})
    return _step_over_assignment(walk, statement, tracks)


def _step_over_assignment(walk: _Walk, statement: ast.stmt, tracks: Tracks) -> tuple[Tracks, bool]:
    pairs = dict(assignment_pairs(statement))
    moved, stopped = dict(tracks), False
    for role, view in tracks.items():
        if view.name.id in assigned(statement):
            value = pairs.get(view.name.id)
            source = view_of(value, view.axes) if value is not None else None
            if source is None:
                stopped = True
            else:
                moved[role] = _allow(walk, source)
    return moved, stopped


def _step_over_branches(walk: _Walk, statement: ast.stmt, inner: list[list[ast.stmt]], tracks: Tracks) -> Tracks:
    """Return the tracks above a compound statement: all its branches and the code below it must agree on the states."""
    if isinstance(statement, (ast.For, ast.While)):
        raise walk.refuse(statement, "attention is computed in a loop")
    result: Tracks = {}
    for block in inner:
        inner_tracks = {} if _exits(block) else dict(tracks)
        for line in reversed(block):
            inner_tracks, stopped = _step_up(walk, line, inner_tracks)
            if stopped:
                raise walk.refuse(line, "a state is changed inside a branch")
        for role, view in inner_tracks.items():
            _merge(walk, statement, result, role, view)
    for role, view in tracks.items():
        _merge(walk, statement, result, role, view)
    return result


def _merge(walk: _Walk, statement: ast.stmt, tracks: Tracks, role: str, view: View) -> None:
    """Record that `role` is `view` above a statement; refuse a view that contradicts the known one."""
    known = tracks.get(role)
    if known is not None and known.name.id != view.name.id:
        raise walk.refuse(statement, f"{role} is {known.name.id} for one attention call and {view.name.id} for another")
    if known is not None and known.axes and view.axes and known.axes != view.axes:
        raise walk.refuse(
            statement, f"{view.name.id} is laid out {known.axes} for one attention call, {view.axes} for another"
        )
    tracks[role] = _allow(walk, view if known is None or known.axes is None else known)
    walk.allowed.add(id(view.name))


def _changes_state(walk: _Walk, statement: ast.stmt, tracks: Tracks) -> bool:
    """Tell whether a compound statement without a core changes a state by more than a cast or repeated heads."""
    for line in simple_statements([statement]):
        pairs = dict(assignment_pairs(line))
        for view in tracks.values():
            if view.name.id in assigned(line):
                value = pairs.get(view.name.id)
                source = view_of(value, "BSHD") if value is not None else None
                if source is None or source.axes != "BSHD" or source.name.id != view.name.id:
                    return True
                _allow(walk, source)
    return False


def _below_other_readers(walk: _Walk, stop: int) -> int:
    """Move the site below every other reader of the states; refuse a reader at or after the core."""
    parent_of = parents(walk.function)
    first = next(index for index, line in enumerate(walk.function.body) if _holds_core(walk, line))
    for index in range(len(walk.function.body) - 1, stop, -1):
        for name in used_names(walk.function.body[index], parent_of):
            if name.id in walk.names and id(name) not in walk.allowed:
                if index >= first:
                    raise walk.refuse(name, f"{name.id} is used outside attention, which would see it quantized")
                if any(isinstance(node, ast.Return) for node in ast.walk(walk.function.body[index])):
                    raise walk.refuse(name, f"{name.id} is used in a branch that returns without attention fa3 knows")
                return index
    return stop


def _holds_core(walk: _Walk, statement: ast.stmt) -> bool:
    inside = {id(line) for line in simple_statements([statement])}
    return any(id(reader) in inside for core in walk.cores for reader in core.statements.values())


def _exits(block: list[ast.stmt]) -> bool:
    return isinstance(block[-1], (ast.Return, ast.Raise))


def _allow(walk: _Walk, view: View) -> View:
    walk.names.add(view.name.id)
    walk.allowed.add(id(view.name))
    return view
