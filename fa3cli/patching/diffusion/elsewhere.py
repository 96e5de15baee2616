"""Refuses transformers that use attention from other files of diffusers, which fa3 does not patch."""

from __future__ import annotations

import ast

from fa3cli.patching.diffusion.library import PACKAGE, Diffusers
from fa3cli.patching.imports import absolute_module
from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.locating.cores import KERNELS
from fa3cli.patching.locating.statements import callee, calls_in
from fa3cli.patching.origins.origin import read_source
from fa3cli.patching.source import Source, parse

__all__ = ["refuse_attention_elsewhere"]


def refuse_attention_elsewhere(library: Diffusers, source: Source, class_name: str | None) -> None:
    """Refuse a transformer that uses another file's blocks with attention: these blocks would stay unpatched.

    Attention modules and processors from other files are accepted: the quantizer is attached where they are created.
    """
    graph = ClassGraph(source)
    if class_name not in graph.classes:
        return
    made = _called_names(graph, class_name)
    for node in source.tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            path = library.module_file(absolute_module(source, node, PACKAGE))
            is_known = alias.name.endswith("Attention") or "Processor" in alias.name
            if path is None or is_known or (alias.asname or alias.name) not in made:
                continue
            if _holds_attention(parse(read_source(path), str(path)), alias.name):
                raise source.refuse(node, f"{class_name} is made of {alias.name}, whose attention is in {path}")


def _called_names(graph: ClassGraph, class_name: str) -> set[str]:
    """Return the names that are called in a class and in the classes of its file that it refers to."""
    parts = [graph.classes[name] for name in graph.reachable(class_name) if name in graph.classes]
    return {callee(call) for part in parts for call in calls_in(part)}


def _holds_attention(source: Source, name: str) -> bool:
    endings = ("Attention", "AttnProcessor2_0", "TransformerBlock")
    called = _called_names(ClassGraph(source), name)
    return bool(called & {*KERNELS, "softmax"}) or any(function.endswith(endings) for function in called)
