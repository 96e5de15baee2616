"""Finds calls of unknown attention kernels: a class with such a call would be patched in part only."""

from __future__ import annotations

import ast
import re

from fa3cli.patching.locating.cores import KERNELS, Core
from fa3cli.patching.locating.statements import callee, calls_in, only_in_training, parents

__all__ = ["unknown_kernel"]

_KERNEL = re.compile(r"attention|attn|flash|sdpa")
# Functions for masks, predicates, and classes (their own forward is analysed).
_NO_KERNEL = re.compile(r"mask|processor|^_?(is|get|has|supports?|prepare|create|check|warn)_|^[A-Z]|class|norm|pad")


def unknown_kernel(node: ast.ClassDef, cores: list[Core], known: set[str]) -> ast.Call | None:
    """Return a class's first call that looks like attention on three tensors, but is no core or known function."""
    parent_of = parents(node)
    known_code = [statement for core in cores for statement in core.statements.values()]
    # A method with the name of a kernel counts as that kernel.
    known_code += [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name in KERNELS]
    inside = {id(call) for part in known_code for call in calls_in(part)}
    for call in calls_in(node):
        if id(call) in inside:
            continue
        name, starred = callee(call), any(isinstance(argument, ast.Starred) for argument in call.args)
        if name in known and not starred:
            continue
        looks = _KERNEL.search(name) and not _NO_KERNEL.search(name)
        own = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value).startswith(("self", "super"))
        takes_three = starred or len(call.args) + len(call.keywords) >= 3
        if looks and not own and takes_three and not only_in_training(call, parent_of):
            return call
    return None
