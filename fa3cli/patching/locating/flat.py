"""States that aren't `[B, H, S, D]` where they can be taken: the way there and back.

Flash attention wants positions before heads. Bloom up to transformers 4.45 and models like it make batch and heads
one axis before the cache, so that no other place is right.
"""

from __future__ import annotations

import ast

from fa3cli.patching.locating.flow import assigned, simple_statements
from fa3cli.patching.locating.views import View, callee

__all__ = ["TRANSPOSE", "LayoutChange", "layout_change"]

# What is written behind a state inside the call, and behind the call.
LayoutChange = tuple[str, str]
# From positions before heads, and back.
TRANSPOSE: LayoutChange = (".transpose(1, 2)", ".transpose(1, 2)")


def layout_change(view: View, body: list[ast.stmt]) -> LayoutChange | None:
    """The way of a state laid out `BSHD`, or `NSD` or `NDS` with the heads it was joined from above; None if none is known."""
    if view.axes == "BSHD":
        return TRANSPOSE
    heads = _joined_heads(view.name.id, body)
    if heads is None or view.axes not in ("NSD", "NDS"):
        return None
    turn = ".mT" if view.axes == "NDS" else ""
    return f".unflatten(0, (-1, {heads})){turn}", f"{turn}.flatten(0, 1)"


def _joined_heads(name: str, body: list[ast.stmt]) -> str | None:
    """The number of heads in `name = ....reshape(batch_size * self.num_heads, ...)`, as it is written there."""
    for statement in simple_statements(body):
        if name in assigned(statement):
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and callee(call) in ("reshape", "view") and call.args:
                    first = call.args[0]
                    if isinstance(first, ast.BinOp) and isinstance(first.op, ast.Mult):
                        heads = ast.unparse(first.right)
                        return heads if "head" in heads else None
    return None
