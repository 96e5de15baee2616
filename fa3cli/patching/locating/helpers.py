"""Finds cores in helper methods: `self._attn(query, key, value, mask)` is a core whose operands are its arguments."""

from __future__ import annotations

import ast
from collections.abc import Callable

from fa3cli.patching.locating.cores import Core, Refuse, find_cores
from fa3cli.patching.locating.locate import ROLES, state_arguments
from fa3cli.patching.locating.statements import simple_statements

__all__ = ["all_cores"]


def all_cores(
    function: ast.FunctionDef, method: Callable[[str], tuple[str, ast.FunctionDef] | None], refuse: Refuse
) -> list[Core]:
    """The cores of a function, including calls of helper methods on `self`; `method` finds a method by its name."""
    cores = find_cores(function, refuse)
    for statement in simple_statements(function.body):
        for call in ast.walk(statement):
            found = method(call.func.attr) if _is_own_method(call) else None
            if found and not _is_a_core(call, cores):
                inner = find_cores(found[1], refuse)
                cores += [_helper_core(call, statement, found[1], inner, refuse)] if inner else []
    return cores


def _is_own_method(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return getattr(node.func.value, "id", "") == "self" and node.func.attr != "forward"


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
        raise refuse(call, f"{helper.name} takes {missing[0]} from elsewhere than its arguments")
    return Core(
        dict.fromkeys(ROLES, statement),
        {role: given[tracks[role].name.id] for role in ROLES},
        {role: tracks[role].axes for role in ROLES},
        all(core.flash for core in inner),
    )
