"""Creates the quantizer at the end of the `__init__` that all patched classes call."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.locating.statements import assigned, names_in
from fa3cli.patching.places import Below
from fa3cli.patching.rules.rule import Rule, statements
from fa3cli.patching.source import Source

__all__ = ["attach", "owners", "quantizer_line"]


def owners(source: Source, graph: ClassGraph, patched: Iterable[str]) -> dict[str, ast.FunctionDef]:
    """Return the classes whose `__init__` creates the quantizer, once: the topmost base classes."""
    inits: dict[str, ast.FunctionDef] = {}
    for name in patched:
        found = graph.method(name, "__init__")
        if found is None:
            raise source.refuse(graph.classes[name], f"{name} has no __init__ to create the quantizer in")
        while "super().__init__(" in ast.unparse(found[1]):
            above = [graph.method(base, "__init__") for base in graph.bases(found[0])]
            if not any(above):
                break
            found = next(filter(None, above))
        inits[found[0]] = found[1]
    return inits


def attach(
    source: Source,
    owner: str,
    init: ast.FunctionDef,
    rules: Mapping[str, Rule],
    layout: str | None = None,
    sizes: Mapping[str, str] | None = None,
) -> Below:
    """Create the quantizer at the end of an `__init__`, from its rule's attributes, from `sizes`, or from the config.

    `layout` is the layout of the states if the quantizer needs that argument, else None.
    """
    if any(isinstance(node, ast.Return) for node in ast.walk(init)):
        raise source.refuse(init, f"{owner}.__init__ returns early")
    rule = rules.get(owner)
    ruled = _ruled_config(source, init, rule) if rule and rule.attach else None
    config = ruled or sizes or _own_config(source, owner, init)
    return Below(init.body[-1], (quantizer_line("self", config, layout),))


def quantizer_line(module: str, config: str | Mapping[str, str], layout: str | None) -> str:
    """Return the line that assigns a quantizer to a module; `config` is an expression, or attributes of a namespace."""
    if not isinstance(config, str):
        config = f"SimpleNamespace({', '.join(f'{key}={text}' for key, text in config.items())})"
    layout_argument = f', layout="{layout}"' if layout else ""
    return f"{module}.fa_quantizer = FAQuantizer({config}, logger{layout_argument})"


def _own_config(source: Source, owner: str, init: ast.FunctionDef) -> str:
    kept = [ast.unparse(node) for node in ast.walk(init) if isinstance(getattr(node, "ctx", None), ast.Store)]
    if "self.config" in kept:
        return "self.config"
    if "config" not in _arguments(init):
        raise source.refuse(
            init,
            f"{owner}.__init__ has no config to give to the quantizer",
            hint="write a rule that says where its sizes are: --rules, docs/patch-rules.md",
        )
    return "config"


def _ruled_config(source: Source, init: ast.FunctionDef, rule: Rule) -> Mapping[str, str]:
    known = _arguments(init).union(*(assigned(node) for node in statements(init)))
    for key, text in vars(rule.attach).items():
        if unknown := sorted(names_in(ast.parse(text)) - known):
            raise source.refuse(
                init,
                f"{rule.file}: attach.{key} needs {unknown[0]}, but __init__ has no such name",
                hint=f"its names: {', '.join(sorted(known))}",
            )
    return vars(rule.attach)


def _arguments(init: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)}
