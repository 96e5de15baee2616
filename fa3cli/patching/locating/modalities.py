"""Finds the classes of a model's language part, which are not built from a vision or audio configuration."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import lru_cache

from fa3cli.patching.locating.classes import ClassGraph
from fa3cli.patching.locating.statements import calls_in
from fa3cli.patching.source import Source, parse

__all__ = ["OTHER_MODALITIES", "built_parts", "language_model"]

# The parts of config.json that describe other modalities than text.
OTHER_MODALITIES = {"vision_config", "audio_config"}


def language_model(source: Source, graph: ClassGraph, architecture: str) -> set[str]:
    """Return the top-level names that `architecture` refers to, except those only its vision and audio parts use."""
    if not any(name in source.text for name in OTHER_MODALITIES):
        return graph.reachable(architecture)
    return _without_other_modalities(source.text, source.name).reachable(architecture)


@lru_cache(maxsize=8)
def _without_other_modalities(text: str, name: str) -> ClassGraph:
    source = parse(text, name)
    return ClassGraph(replace(source, tree=_OtherModalitiesRemover().visit(source.tree)))


def built_parts(source: Source, reachable: set[str]) -> set[str]:
    """Return the parts of the configuration that reachable classes pass to calls: `Encoder(config.encoder_config)`."""
    classes = [node for node in source.tree.body if isinstance(node, ast.ClassDef) and node.name in reachable]
    return {name for owner in classes for call in calls_in(owner) for name in _given(call)}


def _given(call: ast.Call) -> set[str]:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return {argument.attr for argument in given if isinstance(argument, ast.Attribute)}


class _OtherModalitiesRemover(ast.NodeTransformer):
    """Replaces calls that take a vision or audio configuration by None: `VisionModel(config.vision_config)`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return ast.Constant(None) if _given(node) & OTHER_MODALITIES else self.generic_visit(node)
