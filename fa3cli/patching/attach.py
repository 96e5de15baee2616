"""Where the quantizer is made: at the end of the `__init__` that all patched classes run through."""

from __future__ import annotations

import ast

from fa3cli.patching.classes import ClassGraph
from fa3cli.patching.edits import Edit
from fa3cli.patching.source import Source

__all__ = ["attach", "owners"]


def owners(source: Source, graph: ClassGraph, patched: list[str]) -> list[str]:
    """The classes whose `__init__` makes the quantizer: the topmost ones that every patched class runs through."""
    found_in = []
    for name in patched:
        found = graph.method(name, "__init__")
        if found is None:
            raise source.refuse(graph.classes[name], f"{name} has no __init__ to make the quantizer in")
        while "super().__init__(" in ast.unparse(found[1]):
            above = next(
                (each for base in graph.bases(found[0]) if (each := graph.method(base, "__init__"))), None
            )
            if above is None:
                break
            found = above
        found_in += [found[0]] if found[0] not in found_in else []
    return found_in


def attach(source: Source, graph: ClassGraph, owner: str) -> Edit:
    """Make the quantizer at the end of an `__init__`, from self.config or else the config argument."""
    init = graph.method(owner, "__init__")[1]
    nodes = list(ast.walk(init))
    if any(isinstance(node, ast.Return) for node in nodes):
        raise source.refuse(init, f"{owner}.__init__ returns early")
    has_config = any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == "self.config"
        for node in nodes
        if isinstance(getattr(node, "ctx", None), ast.Store)
    )
    arguments = [
        argument.arg for argument in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)
    ]
    if not has_config and "config" not in arguments:
        raise source.refuse(init, f"{owner}.__init__ has no config to give to the quantizer")
    last = init.body[-1]
    config = "self.config" if has_config else "config"
    line = f"{source.indent(init.body[0])}self.fa_quantizer = FAQuantizer({config}, logger){source.newline}"
    return Edit(source.line_end(last), "", line)
