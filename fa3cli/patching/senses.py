"""Which part of a model is its language model: what is built from a vision or audio configuration isn't."""

from __future__ import annotations

import ast
from dataclasses import replace

from fa3cli.patching.classes import ClassGraph
from fa3cli.patching.source import Source, parse

__all__ = ["SENSES", "language_model"]

# The parts of a config.json that describe how a model sees and hears.
SENSES = {"vision_config", "audio_config"}


def language_model(source: Source, graph: ClassGraph, architecture: str) -> set[str]:
    """The top-level names `architecture` refers to, without those only its vision and audio parts are made of."""
    if not any(name in source.text for name in SENSES):
        return graph.reachable(architecture)
    tree = _WithoutSenses().visit(parse(source.text, source.name).tree)
    return ClassGraph(replace(source, tree=tree)).reachable(architecture)


class _WithoutSenses(ast.NodeTransformer):
    """Leaves out the calls that are given such a configuration: `VisionModel(config.vision_config)`."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(isinstance(each, ast.Attribute) and each.attr in SENSES for each in given):
            return ast.Constant(None)
        return self.generic_visit(node)
