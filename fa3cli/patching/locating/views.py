"""Follows expressions that only change a tensor's layout or dtype or repeat its heads, back to that tensor."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from fa3cli.patching.locating.repeats import EXPAND, repeated_state
from fa3cli.patching.locating.statements import callee

__all__ = ["Step", "View", "callee", "steps", "view_of"]

# Methods and functions of torch. A new layout of None means that the axes are unknown after the operation.
_KEEP_AXES = {"contiguous", "to", "float", "half", "bfloat16", "type", "type_as", "clone", "pad"}
_RESHAPE = {"view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"}
# A reshape from four axes to three joins batch and heads; the effect of other reshapes on the axes is unknown.
_BEFORE_JOIN = {"NSD": "BHSD", "NDS": "BHDS"}
_FUNCTIONS_OF = {"torch", "F", "nn.functional", "torch.nn.functional"}


@dataclass(frozen=True)
class View:
    """The variable that an expression is a view of, its axes (None if unknown), and whether heads are repeated."""

    name: ast.Name
    axes: str | None
    expanded: bool = False


@dataclass(frozen=True)
class Step:
    """One expression of a chain of views, with its axes, and whether it repeats the heads of the next inner one."""

    expression: ast.expr
    axes: str | None
    expands: bool = False


def view_of(expression: ast.expr, axes: str | None) -> View | None:
    """Find the variable of which `expression`, with the axes `axes`, is a view; None if it computes anything else."""
    chain = steps(expression, axes)
    last = chain[-1]
    if not isinstance(last.expression, ast.Name):
        return None
    expanded = any(step.expands for step in chain)
    # x[:, :, None].expand(...).reshape(...) repeats heads along an extra axis and removes that axis again.
    whole = axes if expanded and last.axes is None and axes == "BHSD" else last.axes
    return View(last.expression, whole, expanded)


def steps(expression: ast.expr, axes: str | None) -> list[Step]:
    """Return the chain from `expression`, whose result has `axes`, to the innermost expression it is a view of."""
    chain = []
    while (found := _inner(expression, axes)) is not None:
        chain.append(Step(expression, axes, found[2]))
        expression, axes = found[:2]
    return [*chain, Step(expression, axes)]


def _inner(expression: ast.expr, axes: str | None) -> tuple[ast.expr, str | None, bool] | None:
    """Return the expression that `expression` views, its axes, and whether the view repeats heads; else None."""
    if isinstance(expression, ast.Attribute) and expression.attr in ("T", "mT"):
        return expression.value, _swap(axes, -1, -2), False
    if isinstance(expression, ast.Subscript) and _adds_axes_only(expression.slice):
        return expression.value, None, False
    if not isinstance(expression, ast.Call):
        return None
    if (tensor := repeated_state(expression)) is not None:
        return tensor, axes, True
    operation, tensor, arguments = _unpack(expression)
    if tensor is None:
        return None
    if operation in _KEEP_AXES:
        return tensor, axes, False
    if operation in EXPAND:
        return tensor, axes if operation in ("repeat_kv", "repeat_interleave") else None, True
    if operation in _RESHAPE:
        return tensor, _BEFORE_JOIN.get(axes or ""), False
    if operation in ("transpose", "swapaxes", "swapdims"):
        return tensor, _swap(axes, *map(_integer, arguments)) if len(arguments) == 2 else None, False
    if operation == "permute":
        return tensor, _unpermute(axes, [_integer(argument) for argument in arguments]), False
    return None


def _unpack(call: ast.Call) -> tuple[str, ast.expr | None, list[ast.expr]]:
    """Split `x.f(...)` or `torch.f(x, ...)` into f, x and the other arguments."""
    function = call.func
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) not in _FUNCTIONS_OF:
        return function.attr, function.value, call.args
    if call.args and (isinstance(function, ast.Attribute) or callee(call) == "repeat_kv"):
        return callee(call), call.args[0], call.args[1:]
    return "", None, []


def _adds_axes_only(index: ast.expr) -> bool:
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    return all(
        (isinstance(part, ast.Constant) and part.value in (None, Ellipsis))
        or (isinstance(part, ast.Slice) and part.lower is part.upper is part.step is None)
        for part in parts
    )


def _integer(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, int) else None


def _swap(axes: str | None, first: int | None, second: int | None) -> str | None:
    if axes is None or first is None or second is None:
        return None
    if not all(-len(axes) <= axis < len(axes) for axis in (first, second)):
        return None
    order = list(axes)
    order[first], order[second] = order[second], order[first]
    return "".join(order)


def _unpermute(axes: str | None, order: list[int | None]) -> str | None:
    if axes is None or sorted(axis for axis in order if axis is not None) != list(range(len(axes))):
        return None
    before = dict(zip(order, axes))
    return "".join(before[axis] for axis in range(len(axes)))
