"""Tells which names statements assign and read, and which statements they contain."""

from __future__ import annotations

import ast
from collections.abc import Iterator

__all__ = [
    "assigned",
    "assignment_pairs",
    "blocks",
    "callee",
    "calls_in",
    "names_in",
    "only_in_training",
    "parents",
    "simple_statements",
    "statements_on_path",
    "targets",
    "used_names",
    "value_of",
]

_METADATA = {
    "shape", "dtype", "device", "ndim", "is_cuda", "size", "dim", "numel", "stride", "is_contiguous",
}  # fmt: skip


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Return the statement lists directly inside a compound statement; empty for a simple one or a definition."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    found = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
    found += [handler.body for handler in getattr(statement, "handlers", [])]
    return [block for block in found if block]


def simple_statements(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield every statement of a block that contains no other statements, at any depth, in the order of the text."""
    for statement in block:
        inner = blocks(statement)
        if not inner:
            yield statement
        for branch in inner:
            yield from simple_statements(branch)


def callee(call: ast.Call) -> str:
    """Return the last part of a called name: `torch.matmul(...)` -> `matmul`."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def calls_in(node: ast.AST) -> list[ast.Call]:
    """Return the calls in a node, at any depth."""
    return [call for call in ast.walk(node) if isinstance(call, ast.Call)]


def names_in(node: ast.AST) -> set[str]:
    """Return the names in a node, at any depth."""
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def statements_on_path(block: list[ast.stmt], pivot: ast.stmt) -> list[ast.stmt]:
    """Return the simple statements that can run together with `pivot`: branches that exclude `pivot` are omitted."""
    found: list[ast.stmt] = []
    for statement in block:
        inner = blocks(statement)
        holding = [branch for branch in inner if any(pivot is child for child in simple_statements(branch))]
        if not inner:
            found.append(statement)
        for branch in holding or inner:
            found += statements_on_path(branch, pivot)
    return found


def targets(statement: ast.stmt) -> list[ast.expr]:
    """Return the targets of an assignment, tuples split into their elements; empty for other statements."""
    if isinstance(statement, ast.Assign):
        found = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        found = [statement.target]
    else:
        return []
    return [
        part for target in found for part in (target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target])
    ]


def value_of(statement: ast.stmt) -> ast.expr | None:
    """Return the expression that a statement assigns, returns or evaluates; None for other statements."""
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)
    return statement.value if isinstance(statement, kinds) else None


def assigned(statement: ast.stmt) -> set[str]:
    """Return the names that a statement assigns, `:=` included."""
    parts = [part for target in targets(statement) for part in ast.walk(target)]
    names = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    inner = [] if blocks(statement) else ast.walk(statement)
    return names | {expression.target.id for expression in inner if isinstance(expression, ast.NamedExpr)}


def assignment_pairs(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    """Return pairs of a name and the expression assigned to it: `a = x`, and `a, b = x, y`."""
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
        return []
    names, value = targets(statement), statement.value
    values = value.elts if isinstance(value, ast.Tuple) and len(names) > 1 else [value]
    if len(values) != len(names):
        return []
    return [(name.id, part) for name, part in zip(names, values) if isinstance(name, ast.Name)]


def parents(function: ast.AST) -> dict[ast.AST, ast.AST]:
    """Map each node to its parent."""
    return {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}


def used_names(node: ast.AST, parent_of: dict[ast.AST, ast.AST]) -> list[ast.Name]:
    """Return the names whose *values* a node reads; a shape, dtype or device, or a test `is None`, does not count."""
    names = [used for used in ast.walk(node) if isinstance(used, ast.Name) and isinstance(used.ctx, ast.Load)]
    return [name for name in names if not _reads_metadata(parent_of.get(name))]


def _reads_metadata(parent: ast.AST | None) -> bool:
    if isinstance(parent, ast.Attribute):
        return parent.attr in _METADATA
    if isinstance(parent, ast.Compare):
        return all(isinstance(operator, (ast.Is, ast.IsNot)) for operator in parent.ops)
    return isinstance(parent, ast.Call) and callee(parent) in ("isinstance", "len", "type_as")


def only_in_training(node: ast.AST, parent_of: dict[ast.AST, ast.AST]) -> bool:
    """Tell whether a node is in the body of an `if ... and self.training`."""
    while node in parent_of:
        above = parent_of[node]
        if isinstance(above, ast.If) and node in above.body:
            tests = above.test.values if isinstance(above.test, ast.BoolOp) else [above.test]
            is_and = not isinstance(above.test, ast.BoolOp) or isinstance(above.test.op, ast.And)
            if is_and and any(ast.unparse(test) == "self.training" for test in tests):
                return True
        node = above
    return False
