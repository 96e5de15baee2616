"""Finds the attention classes of a modeling file, and which classes inherit from or refer to which."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.cores import KERNELS, Core
from fa3cli.patching.locating.helpers import all_cores
from fa3cli.patching.locating.inside import locate_inside
from fa3cli.patching.locating.kernels import unknown_kernel
from fa3cli.patching.locating.layout_change import TRANSPOSE
from fa3cli.patching.locating.locate import ROLES, Site, locate
from fa3cli.patching.locating.repeats import mark_calls
from fa3cli.patching.locating.site_checks import returns_repeated_heads
from fa3cli.patching.locating.statements import callee, calls_in, names_in
from fa3cli.patching.source import Source

__all__ = [
    "AttentionClass",
    "ClassGraph",
    "Found",
    "attention_classes",
    "is_processor",
    "patchable_class",
    "site_of_core",
]


@dataclass(frozen=True)
class AttentionClass:
    """An attention class: its line, the names of q, k, v, and the line `place` below which the calls are inserted.

    A class that cannot be patched has a `problem` instead. With `inside` the states are expressions, q's is in line
    `place`, and the calls are written around them. `rule` is the file of the rule that decided this, if there is one.
    An `idle` class needs no patch; `problem` says why. `file` is the file that the line numbers refer to, if the class
    was copied from another file.
    """

    name: str
    line: int
    states: tuple[str, str, str] | None = None
    place: int | None = None
    problem: str | None = None
    is_flash: bool = False
    rule: str | None = None
    idle: bool = False
    inside: bool = False
    file: str | None = None


_MAX_BASES = 50

# The attention classes of a file by name, with the site of the calls (None if the class is not patched).
Found = dict[str, tuple[AttentionClass, "Site | None"]]


class ClassGraph:
    """The classes of a file by name, and the names that every top-level name of the file refers to."""

    def __init__(self, source: Source) -> None:
        self.classes = {node.name: node for node in source.tree.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in source.tree.body if isinstance(node, ast.FunctionDef)}
        self._bases = {name: self._bases_of(node) for name, node in self.classes.items()}
        self._refuse_cycles(source)
        self._methods = {
            name: {function.name: function for function in node.body if isinstance(function, ast.FunctionDef)}
            for name, node in self.classes.items()
        }
        self.references: dict[str, set[str]] = {}
        for node in source.tree.body:
            names = set() if self._is_model_base(node) else names_in(node)
            for name in _defined(node):
                self.references[name] = self.references.get(name, set()) | names

    def _bases_of(self, node: ast.ClassDef) -> list[str]:
        names = [getattr(base, "id", None) for base in node.bases]
        return [base for base in names if base in self.classes and base != node.name]

    def _refuse_cycles(self, source: Source) -> None:
        """Refuse classes that inherit from themselves, or through more classes than any real model has."""
        left = dict(self._bases)
        for _ in range(_MAX_BASES):
            for name in [name for name, bases in left.items() if not any(base in left for base in bases)]:
                del left[name]
        if left:
            name = next(iter(left))
            raise source.refuse(
                self.classes[name], f"{name} inherits from itself, or through more than {_MAX_BASES} classes"
            )

    def _is_model_base(self, node: ast.stmt) -> bool:
        """Tell whether a class is the file's PreTrainedModel: it names classes to initialise, but builds none."""
        if not isinstance(node, ast.ClassDef) or "PreTrainedModel" not in map(_last_name, node.bases):
            return False
        return self.method(node.name, "forward", inherited=False) is None

    def bases(self, name: str) -> list[str]:
        """Return the base classes that the file defines; one with the same name as its subclass is imported."""
        return self._bases[name]

    def method(self, name: str, method: str, inherited: bool = True) -> tuple[str, ast.FunctionDef] | None:
        """Return a method of a class, own or inherited, and the class that defines it; None if it is missing."""
        todo, seen = [name], set()
        while todo:
            owner = todo.pop()
            if method in self._methods[owner]:
                return owner, self._methods[owner][method]
            seen.add(owner)
            todo += [base for base in reversed(self.bases(owner)) if inherited and base not in seen]
        return None

    def reachable(self, name: str) -> set[str]:
        """Return every top-level name that a class refers to, directly or through other names."""
        found, todo = set(), {name}
        while todo:
            found |= todo
            todo = set().union(*(self.references.get(other, set()) for other in todo)) - found
        return found

    def family(self, name: str) -> set[str]:
        """Return a class and all classes linked to it: by inheritance, or as alternatives in one dictionary.

        Up to transformers 4.47 the eager, sdpa and flash attention of a model are three such classes.
        """
        found, todo = {name}, [name]
        done: set[int] = set()
        while todo:
            more = self._bound.get(todo.pop(), set()) - done
            done |= more
            fresh = set().union(*(self._links[number] for number in more)) - found
            found |= fresh
            todo += fresh
        return found

    @cached_property
    def _links(self) -> list[set[str]]:
        links = [{name, base} for name in self.classes for base in self.bases(name)]
        return links + [names for names in self._choices() if len(names) > 1]

    @cached_property
    def _bound(self) -> dict[str, set[int]]:
        """Map each class to the indices of the links that contain it."""
        bound_names: dict[str, set[int]] = {}
        for number, link in enumerate(self._links):
            for member in link:
                bound_names.setdefault(member, set()).add(number)
        return bound_names

    def _choices(self) -> list[set[str]]:
        return [
            {name for name in names if name in self.classes}
            for key, names in self.references.items()
            if key.endswith("ATTENTION_CLASSES")
        ]


def attention_classes(source: Source, graph: ClassGraph) -> Found:
    """Find every class of the file that computes softmax attention, and the site of the calls in its own forward."""
    found: Found = {}
    mark_calls(source.tree, returns_repeated_heads)
    # Functions and classes of this file are analysed where they are defined, so calls of them are no unknown kernels.
    known = {*graph.functions, *graph.classes, *KERNELS}
    for name, node in graph.classes.items():
        functions = _attention_functions(graph, name)
        if not functions:
            continue
        is_flash = False
        try:
            cores = _cores(source, graph, name, functions)
            found_cores = [core for inner in cores.values() for core in inner]
            if kernel := unknown_kernel(node, found_cores, known):
                raise source.refuse(kernel, f"{name} calls {callee(kernel)}, which may be attention fa3 doesn't know")
            if not cores:
                if _looks_like_attention(graph, node):
                    raise source.refuse(node, f"{name} computes attention in a way fa3 can't follow")
                continue
            is_flash = all(core.flash for core in found_cores)
            site, *others = [_locate_site(function, inner, source) for function, inner in cores.items()]
            site = replace(site, others=tuple(others))
        except UnsupportedError as error:
            found[name] = AttentionClass(name, node.lineno, problem=str(error), is_flash=is_flash), None
        else:
            found[name] = patchable_class(node, site, is_flash), site
    return found


def site_of_core(source: Source, graph: ClassGraph, name: str, key: str) -> Site | None:
    """Return the site for the attention call whose key operand is `key`; other calls of the class stay unchanged."""
    for function, cores in _cores(source, graph, name, _attention_functions(graph, name)).items():
        if wanted := [core for core in cores if ast.unparse(core.operands["k"]) == key]:
            return _locate_site(function, wanted, source)
    return None


def is_processor(graph: ClassGraph, name: str) -> bool:
    """Tell whether a class is a processor: it computes attention for a module, `__call__(self, attn, ...)`."""
    call = graph.method(name, "__call__")
    return call is not None and _takes_module(call[1])


def _attention_functions(graph: ClassGraph, name: str) -> list[ast.FunctionDef]:
    """Return a class's functions that may compute attention: forward, or the methods of a processor with `attn`."""
    forward = graph.method(name, "forward", inherited=False)
    if forward or not is_processor(graph, name):
        return [forward[1]] if forward else []
    return [function for function in graph.classes[name].body if _takes_module(function)]


def _takes_module(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and [given.arg for given in node.args.args[1:2]] == ["attn"]


def _cores(
    source: Source, graph: ClassGraph, name: str, functions: list[ast.FunctionDef]
) -> dict[ast.FunctionDef, list[Core]]:
    """Return the cores of each function that has any.

    A helper method's cores count for its caller, unless the helper is one of `functions` itself: each core counts once.
    """

    def method(wanted: str) -> tuple[str, ast.FunctionDef] | None:
        found = graph.method(name, wanted)
        return None if found and found[1] in functions else found

    every = {function: all_cores(function, method, source.refuse) for function in functions}
    return {function: cores for function, cores in every.items() if cores}


def _locate_site(function: ast.FunctionDef, cores: list[Core], source: Source) -> Site:
    try:
        site = locate(function, cores, source.refuse)
    except UnsupportedError as error:
        try:
            site = locate_inside(function, cores, source.refuse)
        except UnsupportedError:
            raise error from None
    if _takes_module(function):
        site = replace(site, owner=function.args.args[1].arg)
    if all(core.pass_layout for core in cores) and site.layout_changes == dict.fromkeys(ROLES, TRANSPOSE):
        site = replace(site, layout_changes={}, layout="BSHD")
    return site


def patchable_class(node: ast.ClassDef, site: Site, is_flash: bool) -> AttentionClass:
    """Describe a class for which a site was found."""
    if site.after is not None:
        place = site.after.end_lineno
        return AttentionClass(node.name, node.lineno, site.states or None, place, is_flash=is_flash)
    first = dict(reversed(site.inside))
    q, k, v = (ast.unparse(first[role]) for role in ROLES)
    place = first["q"].lineno
    return AttentionClass(node.name, node.lineno, (q, k, v), place, is_flash=is_flash, inside=True)


def _looks_like_attention(graph: ClassGraph, node: ast.ClassDef) -> bool:
    """Tell whether a class seems to compute attention in an unknown form: relative, hashed, block-sparse."""
    if "att" not in node.name.lower():
        return False
    found: list[ast.ClassDef | ast.FunctionDef] = [node]
    todo = names_in(node)
    while more := [function for name, function in graph.functions.items() if name in todo and function not in found]:
        found += more
        todo = set().union(*map(names_in, more))
    called = {callee(call).lower() for part in found for call in calls_in(part)}
    return "softmax" in called and bool(called & {"matmul", "bmm", "baddbmm", "einsum"})


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in names if isinstance(target, ast.Name)]
