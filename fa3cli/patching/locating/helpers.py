"""Finds cores in helper methods: `self._attn(query, key, value, mask)` is a core whose operands are its arguments."""

from __future__ import annotations

import ast
from collections.abc import Callable

from fa3cli.patching.locating.cores import Core, Refuse, find_cores
from fa3cli.patching.locating.locate import ROLES, state_arguments
from fa3cli.patching.locating.statements import callee, calls_in, simple_statements

__all__ = ["all_cores"]


def all_cores(
    function: ast.FunctionDef, method: Callable[[str], tuple[str, ast.FunctionDef] | None], refuse: Refuse
) -> list[Core]:
    """Return the cores of a function, including calls of helper methods on `self`, which `method` finds by name."""
    cores = find_cores(function, refuse)
    for statement in simple_statements(function.body):
        for call in calls_in(statement):
            found = method(_own_method(call))
            if found and not _is_a_core(call, cores):
                inner = find_cores(found[1], refuse)
                cores += [_helper_core(call, statement, found[1], inner, refuse)] if inner else []
    return cores


def _own_method(call: ast.Call) -> str:
    """Return the name of a method that is called on `self`; empty for other calls, and for forward."""
    on_self = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "self"
    return callee(call) if on_self and callee(call) != "forward" else ""


def _is_a_core(call: ast.Call, cores: list[Core]) -> bool:
    arguments = {id(argument) for argument in [*call.args, *(keyword.value for keyword in call.keywords)]}
    return any(id(core.operands["q"]) in arguments for core in cores)


def _helper_core(
    call: ast.Call, statement: ast.stmt, helper: ast.FunctionDef, inner: list[Core], refuse: Refuse
) -> Core:
    tracks = state_arguments(helper, inner, refuse)
    names = [argument.arg for argument in helper.args.args[1:]]
    given = dict(zip(names, call.args)) | {keyword.arg: keyword.value for keyword in call.keywords}
    if missing := [tracks[role].name.id for role in ROLES if tracks[role].name.id not in given]:
        raise refuse(call, f"{helper.name} does not get {missing[0]} from its arguments")
    return Core(
        dict.fromkeys(ROLES, statement),
        {role: given[tracks[role].name.id] for role in ROLES},
        {role: tracks[role].axes for role in ROLES},
        all(core.flash for core in inner),
    )
