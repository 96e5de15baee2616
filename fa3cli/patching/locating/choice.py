"""Chooses the attention classes to patch: the requested ones, or those that build the language model, with siblings."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fa3cli.errors import UnsupportedError
from fa3cli.patching.locating.classes import ClassGraph, Found
from fa3cli.patching.locating.modalities import OTHER_MODALITIES, built_parts, language_model
from fa3cli.patching.source import Source

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """The classes to patch, in the order of the file, and a warning for each attention class that is not patched."""

    patched: tuple[str, ...]
    warnings: tuple[str, ...]


def choose(
    source: Source,
    graph: ClassGraph,
    found: Found,
    architecture: str | None,
    attention: Sequence[str],
    config: Mapping[str, Any],
) -> Choice:
    """Choose the requested classes, or all attention classes that build the architecture's language model.

    Siblings (base classes, subclasses, alternatives) are chosen too. Raises UnsupportedError if one of them cannot be
    patched: a model that is patched in part computes wrong results.
    """
    if architecture is not None and architecture not in graph.classes:
        raise UnsupportedError(f"{source.name} has no class {architecture}, which config.json names")
    reachable = graph.reachable(architecture) if architecture else set(graph.classes)
    language_parts = language_model(source, graph, architecture) if architecture else reachable
    root = graph.classes[architecture] if architecture else source.tree
    if isinstance(root, ast.ClassDef):
        _refuse_composites(source, root, reachable, language_parts, config)
    used = [name for name in found if name in reachable]
    requested = _requested(source, found, used, architecture, attention)
    chosen = requested or [name for name in used if name in language_parts and not found[name][0].idle]
    if not chosen:
        raise source.refuse(root, f"found no softmax attention that {architecture or 'the file'} is built of")
    family = set().union(*(graph.family(name) for name in chosen))
    patched, skipped = _split_family(source, graph, found, family, attention)
    warnings = [
        f"{name} is not patched ({found[name][0].problem}): do not load the model with flash attention"
        for name in skipped
    ]
    for name in used:
        if found[name][0].idle:
            warnings.append(f"{name} is not patched: {found[name][0].problem}")
        elif name not in family:
            other = "it is part of a vision or audio model (--attention patches it)"
            warnings.append(f"{name} is not patched: {'not requested' if attention else other}")
    return Choice(tuple(patched), tuple(warnings))


def _refuse_composites(
    source: Source, root: ast.ClassDef, reachable: set[str], language_parts: set[str], config: Mapping[str, Any]
) -> None:
    """Refuse a composite model: its language model, or a part with its own model_type, is defined in another file."""
    builders = [builder for builder in sorted(language_parts) if builder.startswith("AutoModel")]
    if builders:
        calls = [node for node in ast.walk(source.tree) if getattr(node, "id", "") == builders[0]]
        raise source.refuse(calls[0], f"{root.name} builds a part by {builders[0]}: composite model")
    parts = {name for name, part in config.items() if isinstance(part, dict) and part.get("model_type")}
    if elsewhere := sorted(parts - OTHER_MODALITIES - built_parts(source, reachable)):
        raise source.refuse(
            root, f"config.json describes a composite model, and {root.name} doesn't build its {elsewhere[0]}"
        )


def _requested(
    source: Source, found: Found, used: list[str], architecture: str | None, attention: Sequence[str]
) -> list[str]:
    """Return the requested classes; refuse a name that is no attention class here, or whose class needs no patch."""
    for name in attention:
        if name not in used:
            names = ", ".join(f"{used_name} ({found[used_name][0].line})" for used_name in used) or "none"
            raise UnsupportedError(
                f"{source.name}: {architecture or 'the file'} has no attention class {name}",
                hint=f"its attention classes (and their lines): {names}",
            )
        if found[name][0].idle:
            raise UnsupportedError(f"{source.name}:{found[name][0].line}: {name}: {found[name][0].problem}")
    return list(attention)


def _split_family(
    source: Source, graph: ClassGraph, found: Found, family: set[str], attention: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Split a family into classes to patch, and flash attention siblings to skip, which were not requested."""
    patched, skipped, refused = [], [], []
    for name in graph.classes:
        if name not in family:
            continue
        if name not in found:
            forward = graph.method(name, "forward", inherited=False)
            if forward and "super().forward(" not in ast.unparse(forward[1]):
                refused.append(source.refuse(forward[1], f"found no softmax attention in {name}.forward"))
        elif found[name][1] is not None:
            patched.append(name)
        elif found[name][0].is_flash and name not in attention:
            skipped.append(name)
        elif not found[name][0].idle:
            error = UnsupportedError(f"{found[name][0].problem} [{name}]")
            # Report a rule's reason first: it is more exact than a search that did not understand the code.
            refused.insert(0 if found[name][0].rule else len(refused), error)
    if skipped and not patched:
        refused.append(UnsupportedError(f"{found[skipped[0]][0].problem} [{skipped[0]}]"))
    if refused:
        raise refused[0]
    return patched, skipped
