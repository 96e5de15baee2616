"""Finds the code that changes a state's layout to `[B, H, S, D]` and back, where the site has another layout.

In flash attention, positions come before heads. Bloom up to transformers 4.45 and similar models join batch and heads
into one axis before the cache, and there is no other correct site.
"""

from __future__ import annotations

import ast

from fa3cli.patching.locating.statements import assigned, callee, calls_in, simple_statements
from fa3cli.patching.locating.views import View

__all__ = ["TRANSPOSE", "LayoutChange", "layout_change"]

# Code appended to a state inside the call, and code appended to the call.
LayoutChange = tuple[str, str]
# From [B, S, H, D] to [B, H, S, D], and back.
TRANSPOSE: LayoutChange = (".transpose(1, 2)", ".transpose(1, 2)")


def layout_change(view: View, body: list[ast.stmt]) -> LayoutChange | None:
    """Return the layout change for `BSHD`, or for `NSD` and `NDS` if `body` shows the number of heads; else None."""
    if view.axes == "BSHD":
        return TRANSPOSE
    heads = _joined_heads(view.name.id, body)
    if heads is None or view.axes not in ("NSD", "NDS"):
        return None
    turn = ".mT" if view.axes == "NDS" else ""
    return f".unflatten(0, (-1, {heads})){turn}", f"{turn}.flatten(0, 1)"


def _joined_heads(name: str, body: list[ast.stmt]) -> str | None:
    """Return the number of heads in `name = ....reshape(batch_size * self.num_heads, ...)`, as it is written there."""
    for statement in simple_statements(body):
        if name in assigned(statement):
            for call in calls_in(statement):
                if callee(call) in ("reshape", "view") and call.args:
                    first = call.args[0]
                    if isinstance(first, ast.BinOp) and isinstance(first.op, ast.Mult):
                        heads = ast.unparse(first.right)
                        return heads if "head" in heads else None
    return None
