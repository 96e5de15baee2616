"""The pure core of patching: a modeling file's text in, the patched text and the list of edits out."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from fa3cli.errors import ConflictError
from fa3cli.patching.attach import attach, owners
from fa3cli.patching.choice import choose, split_family
from fa3cli.patching.classes import AttentionClass, ClassGraph, attention_classes
from fa3cli.patching.edits import Edit, apply
from fa3cli.patching.imports import absolute_imports, quantizer_import
from fa3cli.patching.locate import ROLES, Site
from fa3cli.patching.source import Source, parse

__all__ = ["RULES", "PatchedSource", "list_source", "patch_source"]

# Counts up whenever the same source would be patched differently: older patches are then stale.
RULES = 3


@dataclass(frozen=True)
class PatchedSource:
    """The patched text, the edits that make it of the source, the classes patched, and what to warn of."""

    text: str
    edits: tuple[Edit, ...]
    attention: tuple[AttentionClass, ...]
    warnings: tuple[str, ...] = ()


def patch_source(
    data: bytes | str,
    *,
    name: str = "modeling.py",
    package: str = "transformers.models.model",
    architecture: str | None = None,
    attention: Sequence[str] = (),
    quantizer: str = "fa3cli",
    native_class: bool = False,
) -> PatchedSource:
    """Place the quantizer and its three calls in a modeling file's attention and make its imports absolute.

    `package` is where the file's relative imports start from, `architecture` the class a model is built
    from, `attention` the classes asked for (none: the one the architecture is built of). `native_class` adds
    what keeps transformers 5.13.1 and newer from treating the models as custom code.
    Raises UnsupportedError (file:line and the reason) when the result isn't certain to be right.
    """
    source = parse(data, name)
    if "fa_quantizer" in source.text:
        raise ConflictError(
            f"{name} has a fa_quantizer already, which fa3 didn't put there",
            hint="start from the unpatched file",
        )
    graph = ClassGraph(source)
    found = attention_classes(source, graph)
    chosen = choose(source, graph, found, architecture, attention)
    family = set().union(*(graph.family(each) for each in chosen))
    patched, skipped = split_family(source, graph, found, family, attention)
    edits = [*absolute_imports(source, package), quantizer_import(source, quantizer)]
    edits += [edit for each in patched for edit in _calls(source, found[each][1])]
    edits += [attach(source, graph, owner) for owner in owners(source, graph, patched)]
    edits += _repair(source, graph) if native_class else []
    text = apply(source.text, edits)
    ast.parse(text.removeprefix("\ufeff"))
    ordered = tuple(sorted(edits, key=lambda edit: edit.offset))
    warnings = [
        f"{each} is not patched ({found[each][0].problem}): do not load the model with flash attention"
        for each in skipped
    ]
    reachable = graph.reachable(architecture) if architecture else family
    warnings += [f"{each} is not patched: not asked for" for each in found if each in reachable - family]
    return PatchedSource(text, ordered, tuple(found[each][0] for each in patched), tuple(warnings))


def list_source(data: bytes | str, *, name: str = "modeling.py") -> tuple[AttentionClass, ...]:
    """Every attention class of a modeling file, patchable or not."""
    source = parse(data, name)
    return tuple(each for each, _ in attention_classes(source, ClassGraph(source)).values())


def _calls(source: Source, site: Site) -> list[Edit]:
    around = [
        edit
        for role, expression in site.inside
        for edit in (
            Edit(source.start(expression), "", "self.fa_quantizer.quant("),
            Edit(source.end(expression), "", f', qkv="{role}")'),
        )
    ]
    if site.after is None:
        return around
    indent, newline = source.indent(site.after), source.newline
    lines = []
    for name, role in zip(site.states, ROLES):
        to, back = site.ways.get(role, ("", ""))
        lines.append(f'{indent}{name} = self.fa_quantizer.quant({name}{to}, qkv="{role}"){back}{newline}')
    return [Edit(source.line_end(site.after), "", newline + "".join(lines))]


def _repair(source: Source, graph: ClassGraph) -> list[Edit]:
    """Say that the file's models are native ones, at its end: transformers 5.13.1 and newer skip the checkpoint
    conversions of custom code, and the weights they concern stay random without a word."""
    roots = [
        name
        for name, node in graph.classes.items()
        if any(ast.unparse(base).split(".")[-1] == "PreTrainedModel" for base in node.bases)
    ]
    lines = ["", ""] if roots else []
    for name in roots:
        lines += [
            f'if hasattr({name}, "is_custom_code"):',
            f"    {name}.is_custom_code = classmethod(lambda cls: False)",
        ]
    text = source.newline.join([*lines, ""]) if roots else ""
    if text and not source.text.endswith(("\n", "\r")):
        text = source.newline + text
    return [Edit(len(source.text), "", text)] if text else []
