"""Finds the operand expressions of attention around which the calls can be written.

This is needed where the calls can stand below no statement. Either other code reads the states too (relative
positions, a tuple kept as cache). Or the states have an axis of heads only in the middle of an expression
(`self._shape(q, length, batch).view(*flat)`).
"""

from __future__ import annotations

import ast

from fa3cli.patching.locating.cores import Core, Refuse
from fa3cli.patching.locating.locate import ROLES, Site
from fa3cli.patching.locating.repeats import may_repeat_heads
from fa3cli.patching.locating.site_checks import is_projection, repeating_statement, unsplit_projection
from fa3cli.patching.locating.statements import (
    assigned,
    assignment_pairs,
    blocks,
    names_in,
    only_in_training,
    parents,
    simple_statements,
    statements_on_path,
    used_names,
)
from fa3cli.patching.locating.views import steps
from fa3cli.patching.source import last_line

__all__ = ["locate_inside"]


def locate_inside(function: ast.FunctionDef, cores: list[Core], refuse: Refuse) -> Site:
    """Return the expressions of q, k and v that only the cores read, or raise with the reason."""
    calls: list[tuple[str, ast.expr]] = []
    # Two branches that each compute the softmax of the same products are two cores with the same operands.
    cores = list({tuple(map(id, core.operands.values())): core for core in cores}.values())
    for core in cores:
        paths = {role: statements_on_path(function.body, core.statements[role]) for role in ROLES}
        if any(_in_loop(function, core.statements[role]) for role in ROLES):
            raise refuse(core.statements["q"], "attention is computed in a loop")
        if any(other is not core and other.statements["v"] in paths["v"] for other in cores):
            raise refuse(core.statements["v"], "the states enter attention more than once")
        found = {role: _state_expression(function, core, role, paths[role], refuse) for role in ROLES}
        if len({ast.unparse(state) for state in found.values()}) < len(ROLES):
            raise refuse(core.statements["k"], "two of q, k, v are one tensor")
        calls += found.items()
    _refuse_other_attention(function, cores, [expression for _, expression in calls], refuse)
    return Site(inside=tuple(calls))


def _state_expression(
    function: ast.FunctionDef, core: Core, role: str, path: list[ast.stmt], refuse: Refuse
) -> ast.expr:
    """Return the expression nearest to the core that is `[B, H, S, D]`, without repeated heads, read only there."""
    statement, expression, axes = core.statements[role], core.operands[role], core.axes[role]
    while True:
        at = path.index(statement)
        chain = steps(expression, axes)
        for index, step in enumerate(chain):
            repeated = any(later.expands for later in chain[index:])
            if step.axes == "BHSD" and not repeated and _has_heads(role, path[:at], step.expression):
                return step.expression
        name = chain[-1].expression
        no_heads = refuse(statement, f"{role} has no axis of heads before it enters attention")
        if not isinstance(name, ast.Name):
            raise no_heads
        above = [line for line in path[:at] if name.id in assigned(line)]
        value = dict(assignment_pairs(above[-1])).get(name.id) if above else None
        if value is None or not _always_before(function, above[-1], statement):
            raise no_heads
        _refuse_other_readers(function, above[-1], name, refuse)
        statement, expression, axes = above[-1], value, chain[-1].axes


def _has_heads(role: str, above: list[ast.stmt], expression: ast.expr) -> bool:
    """Tell whether an expression has an axis of heads, and no statement above is known to repeat them."""
    names = names_in(expression)
    if role != "q" and any(repeating_statement(above, name) for name in names):
        return False
    if isinstance(expression, ast.Name):
        return not unsplit_projection(above, expression.id)
    return not is_projection(expression) and not may_repeat_heads(expression, names)


def _always_before(function: ast.FunctionDef, above: ast.stmt, statement: ast.stmt) -> bool:
    """Tell whether `above` always runs before `statement`: the block of `above` contains `statement` at any depth."""
    inner = [block for node in ast.walk(function) if isinstance(node, ast.stmt) for block in blocks(node)]
    return any(above in block and statement in simple_statements(block) for block in [function.body, *inner])


def _refuse_other_readers(function: ast.FunctionDef, above: ast.stmt, own: ast.Name, refuse: Refuse) -> None:
    """Refuse a name with a quantized state if code outside the chain to the core reads it."""
    parent_of = parents(function)
    for name in used_names(function, parent_of):
        if name.id == own.id and name is not own and name.lineno > last_line(above):
            raise refuse(name, f"{name.id} is used outside attention, which would see it quantized")


def _refuse_other_attention(
    function: ast.FunctionDef, cores: list[Core], inside: list[ast.expr], refuse: Refuse
) -> None:
    """Refuse branches that read the states without a known core: they may compute attention unknown to fa3."""
    parent_of = parents(function)
    names = set().union(*map(names_in, inside)) - {"self"}
    known = {id(reached) for core in cores for reached in statements_on_path(function.body, core.statements["v"])}
    for statement in simple_statements(function.body):
        if id(statement) in known or only_in_training(statement, parent_of):
            continue
        reads = {name.id for name in used_names(statement, parent_of)}
        if len(reads & names) > 1:
            raise refuse(statement, "the states are used in a branch without attention that fa3 knows")


def _in_loop(function: ast.FunctionDef, statement: ast.stmt) -> bool:
    loops = [node for node in ast.walk(function) if isinstance(node, (ast.For, ast.While))]
    return any(statement in simple_statements([loop]) for loop in loops)
