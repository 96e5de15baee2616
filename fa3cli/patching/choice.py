"""Which attention classes to patch: those asked for or those the architecture is built of, with their siblings."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from fa3cli.errors import UnsupportedError
from fa3cli.patching.classes import AttentionClass, ClassGraph
from fa3cli.patching.locate import Site
from fa3cli.patching.senses import language_model
from fa3cli.patching.source import Source

__all__ = ["choose", "split_family"]

Found = dict[str, tuple[AttentionClass, "Site | None"]]


def choose(
    source: Source,
    graph: ClassGraph,
    found: Found,
    architecture: str | None,
    attention: Sequence[str],
) -> list[str]:
    """The attention classes to start from: those asked for, or all the architecture's language model is built of."""
    if architecture is not None and architecture not in graph.classes:
        raise UnsupportedError(
            f"{source.name} has no class {architecture}, which config.json's architectures names"
        )
    reachable = graph.reachable(architecture) if architecture else set(graph.classes)
    builders = [each for each in sorted(reachable) if each.startswith("AutoModel")]
    if builders:
        raise UnsupportedError(
            f"{source.name}: {architecture} builds a part by {builders[0]}: composite model"
        )
    used = [each for each in found if each in reachable]
    names = ", ".join(f"{each} ({found[each][0].line})" for each in used) or "none"
    for each in attention:
        if each not in used:
            raise UnsupportedError(
                f"{source.name}: {architecture or 'the file'} has no attention class {each}",
                hint=f"its attention classes (and their lines): {names}",
            )
    if attention:
        return list(attention)
    if not used:
        raise UnsupportedError(f"{source.name}: found no softmax attention that {architecture} is built of")
    speaks = language_model(source, graph, architecture) if architecture else reachable
    return [each for each in used if each in speaks] or used


def split_family(
    source: Source,
    graph: ClassGraph,
    found: Found,
    family: set[str],
    attention: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Which classes of a family are patched; only a flash sibling nobody asked for may be left out."""
    patched, skipped = [], []
    for name in graph.classes:
        if name not in family:
            continue
        if name not in found:
            forward = graph.method(name, "forward", inherited=False)
            if forward and "super().forward(" not in ast.unparse(forward[1]):
                raise source.refuse(forward[1], f"found no softmax attention in {name}.forward")
        elif found[name][1] is not None:
            patched.append(name)
        elif found[name][0].is_flash and name not in attention:
            skipped.append(name)
        else:
            raise UnsupportedError(f"{found[name][0].problem} [{name}]")
    return patched, skipped
