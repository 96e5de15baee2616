"""Attaches quantizers to the attention modules of diffusion transformers, whose processors compute the attention.

The module holds the projections. A processor is another class, called with the module (`__call__(self, attn, ...)`),
and is no module itself; so the quantizer is attached to the module, wherever the file creates one.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from fa3cli.patching.attach import attach, owners, quantizer_line
from fa3cli.patching.locating.classes import ClassGraph, Found, is_processor
from fa3cli.patching.locating.statements import assigned, callee, simple_statements, targets, value_of
from fa3cli.patching.places import Below
from fa3cli.patching.rules.rule import Rule
from fa3cli.patching.source import Source

__all__ = ["attach_to_modules", "called_names", "mark_unused_processors"]

_HEADS = ("heads", "num_heads", "num_attention_heads")
_SIZES = ("inner_dim", "hidden_size", "query_dim", "dim")


def called_names(node: ast.AST) -> set[str]:
    """Return the names that are called in a node, or assigned as the class of the default processor."""
    named = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    # diffusers' newer attention modules create the class in this attribute if they get no processor.
    named += [
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Assign) and "_default_processor_cls" in map(ast.unparse, targets(part))
    ]
    return {name.id for name in named if isinstance(name, ast.Name)}


def mark_unused_processors(source: Source, graph: ClassGraph, found: Found) -> Found:
    """Mark processors that the file never creates as idle, if it creates others: only other code could use them."""
    processors = [name for name in found if is_processor(graph, name)]
    made = called_names(source.tree) & set(graph.classes)
    # A class that is created may inherit the attention of its base.
    made |= {base for name in made for base in graph.bases(name)}
    if not made.intersection(processors):
        return found
    problem = "the model itself does not use it"
    unmade = [name for name in processors if name not in made and found[name][0].rule is None]
    return found | {name: (replace(found[name][0], problem=problem, idle=True), None) for name in unmade}


def attach_to_modules(
    source: Source,
    graph: ClassGraph,
    patched: Collection[str],
    reachable: Collection[str],
    rules: Mapping[str, Rule],
    layout: str | None,
) -> list[Below]:
    """Attach a quantizer to every attention module that is created with a patched processor.

    The quantizer is created in the module's class if the file defines that class, else after the statement that
    creates the module. Raises UnsupportedError for a module with another processor, or with diffusers' default one:
    its attention would silently stay unpatched.
    """
    own = _attention_modules(graph)
    places: list[Below] = []
    made: list[str] = []
    for name in [name for name in graph.classes if name in reachable]:
        rule = rules.get(name)
        for function, call in _module_calls(graph.classes[name], graph, own):
            classes = _processors(function, call)
            if rule is not None and rule.idle:
                if classes & set(patched):
                    problem = "is marked idle, but it shares a processor with other modules"
                    raise source.refuse(call, f"{rule.file}: {name} {problem}")
                continue
            _check_processors(source, graph, call, classes, patched, own)
            if callee(call) in own:
                made.append(callee(call))
            else:
                places.append(_after_creation(source, function, call, layout))
    inside = [name for name in graph.classes if name in (made or (() if places else own))]
    if not inside and not places:
        raise source.refuse(graph.classes[next(iter(patched))], "found no module that uses the file's processors")
    places += [
        attach(source, owner, init, rules, layout, _sizes(init))
        for owner, init in owners(source, graph, inside).items()
    ]
    return places


def _attention_modules(graph: ClassGraph) -> list[str]:
    """Return the classes of the file that pass themselves to a processor."""
    forwards = {name: graph.method(name, "forward") for name in graph.classes}
    return [
        name
        for name, found in forwards.items()
        if found and "self.processor(self" in re.sub(r"\s", "", ast.unparse(found[1]))
    ]


def _module_calls(
    node: ast.ClassDef, graph: ClassGraph, own: Collection[str]
) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """Yield every call in a class that creates an attention module, with the method that contains the call."""
    for function in [method for method in node.body if isinstance(method, ast.FunctionDef)]:
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                name, keywords = call.func.id, [keyword.arg for keyword in call.keywords]
                is_module = name.endswith("Attention") or "processor" in keywords
                if name in own or (is_module and name not in graph.classes):
                    yield function, call


def _processors(function: ast.FunctionDef, call: ast.Call) -> set[str]:
    """Return the possible classes of the processor in a call that creates a module; empty without the argument."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "processor"]
    given += [argument for argument in call.args if "Processor" in ast.unparse(argument)]
    found: set[str] = set()
    for processor in given:
        values = [processor]
        if isinstance(processor, ast.Name):
            above = [line for line in simple_statements(function.body) if processor.id in assigned(line)]
            values = [value for line in above if (value := value_of(line))] or values
        for value in values:
            found |= called_names(value) - set(dir(builtins)) or {ast.unparse(value)}
    return found


def _check_processors(
    source: Source, graph: ClassGraph, call: ast.Call, classes: set[str], patched: Collection[str], own: Collection[str]
) -> None:
    module = callee(call)
    if not classes and module not in own:
        raise source.refuse(call, f"{module} is made with the default processor, whose attention is in another file")
    for name in sorted(classes):
        through = graph.references.get(name, set()) if name in graph.classes else set()
        if name not in patched and not through & set(patched):
            raise source.refuse(call, f"{module} is made with {name}, which can't be patched here")


def _after_creation(source: Source, function: ast.FunctionDef, call: ast.Call, layout: str | None) -> Below:
    """Create the quantizer of a module whose class is in another file, after the statement that creates the module."""
    for statement in simple_statements(function.body):
        if value_of(statement) is call and len(targets(statement)) == 1:
            module = ast.unparse(targets(statement)[0])
            heads, size = f"{module}.heads", f"{module}.inner_dim"
            has_kv = "kv_heads" in [keyword.arg for keyword in call.keywords]
            kv = f"{module}.inner_kv_dim * {heads} // {size}" if has_kv else heads
            sizes = {"num_attention_heads": heads, "hidden_size": size, "num_key_value_heads": kv}
            return Below(statement, (quantizer_line(module, sizes, layout),))
    raise source.refuse(call, f"{callee(call)} is created inside an expression, where no quantizer can be attached")


def _sizes(init: ast.FunctionDef) -> dict[str, str]:
    """Return the attributes that hold a module's sizes, found in its `__init__`; empty if they are not found."""
    kept = [ast.unparse(node) for node in ast.walk(init) if isinstance(getattr(node, "ctx", None), ast.Store)]
    heads = [f"self.{name}" for name in _HEADS if f"self.{name}" in kept]
    size = [f"self.{name}" for name in _SIZES if f"self.{name}" in kept]
    kv = [name for name in kept if re.fullmatch(r"self\.(num_)?(kv|key_value)_heads", name)]
    if "self.inner_kv_dim" in kept and "self.inner_dim" in kept and heads:
        kv.append(f"self.inner_kv_dim * {heads[0]} // self.inner_dim")
    if not heads or not size:
        return {}
    sizes = {"num_attention_heads": heads[0], "hidden_size": size[0]}
    return sizes | {"num_key_value_heads": [*kv, heads[0]][0]}
