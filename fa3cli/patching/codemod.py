"""The pure core of patching: a modeling file's text in, the patched text and the list of edits out."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.patching.attach import attach, owners
from fa3cli.patching.edits import Edit, apply
from fa3cli.patching.guarded import guard_imports
from fa3cli.patching.imports import absolute_imports, quantizer_import
from fa3cli.patching.locating.choice import choose
from fa3cli.patching.locating.classes import AttentionClass, ClassGraph, Found, attention_classes
from fa3cli.patching.locating.flat import TURN
from fa3cli.patching.locating.locate import ROLES, Site
from fa3cli.patching.processors import attach_to_modules, idle_if_unmade
from fa3cli.patching.rules.files import load_rules
from fa3cli.patching.rules.rule import Rule, Rules
from fa3cli.patching.rules.ruled import apply_rules, rules_of
from fa3cli.patching.source import Source, parse

__all__ = ["RULES", "PatchedSource", "list_source", "patch_source"]

# Counts up whenever the same source would be patched differently: older patches are then stale.
RULES = 2


@dataclass(frozen=True)
class PatchedSource:
    """The patched text, the edits that make it of the source, the classes patched, and what to warn of.

    `rules` are the rule files that had a say, with their digests.
    """

    text: str
    edits: tuple[Edit, ...]
    attention: tuple[AttentionClass, ...]
    warnings: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)


def patch_source(
    data: bytes | str,
    *,
    name: str = "modeling.py",
    package: str | None = "transformers.models.model",
    architecture: str | None = None,
    attention: Sequence[str] = (),
    quantizer: str = "fa3cli",
    native_class: bool = False,
    rules: Rules | None = None,
    config: Mapping[str, Any] | None = None,
) -> PatchedSource:
    """Place the quantizer and its three calls in a modeling file's attention and make its imports absolute.

    `package` is where the file's relative imports start from (None: they stay), `architecture` the class a model is
    built from, `attention` the classes asked for (none: the one the architecture is built of). `native_class` adds
    what keeps transformers 5.13.1 and newer from treating the models as custom code. `rules` are those to go by
    (none: the shipped ones), `config` what config.json says.
    Raises UnsupportedError (file:line and the reason) when the result isn't certain to be right.
    """
    source = parse(data, name)
    if "fa_quantizer" in source.text:
        raise ConflictError(
            f"{name} has a fa_quantizer already, which fa3 didn't put there",
            hint="start from the unpatched file",
        )
    graph, ruled, found = _classes(source, rules, config or {})
    choice = choose(source, graph, found, architecture, attention, config or {})
    sites = {each: _in_layout(found[each][1], quantizer) for each in choice.patched}
    making = _quantizers(source, graph, sites, architecture, ruled)
    # diffusers asks for no package. The guards first: what goes below a guarded line goes below its `except`.
    guards = [] if (package or "").startswith("diffusers.") else guard_imports(source)
    edits = [*guards, *absolute_imports(source, package)]
    edits += [*_imports(source, quantizer, making), *making]
    edits += [
        edit for site in sites.values() for each in (site, *site.others) for edit in _calls(source, each)
    ]
    edits += _repair(source, graph) if native_class else []
    text = apply(source.text, edits)
    _require_compiles(source, text)
    ordered = tuple(sorted(edits, key=lambda edit: edit.offset))
    classes = tuple(found[each][0] for each in choice.patched)
    digests = {Path(rule.file).name: rule.digest for rule in ruled.values()}
    return PatchedSource(text, ordered, classes, choice.warnings, digests)


def list_source(
    data: bytes | str,
    *,
    name: str = "modeling.py",
    rules: Rules | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[AttentionClass, ...]:
    """Every attention class of a modeling file, patchable or not."""
    _, _, found = _classes(parse(data, name), rules, config or {})
    return tuple(each for each, _ in found.values())


def _require_compiles(source: Source, text: str) -> None:
    """Refuse a file whose patched text Python would not run, naming the line of the source where that has the fault."""
    if (error := _fault(text, source.name)) is None:
        return
    if (fault := _fault(source.text, source.name)) is None:
        raise UnsupportedError(
            f"{source.name}: patched, it could not be run: {error.msg} (line {error.lineno})"
        )
    raise UnsupportedError(f"{source.name}:{fault.lineno or 1}: Python can't run this file: {fault.msg}")


def _fault(text: str, name: str) -> SyntaxError | None:
    try:
        compile(text.removeprefix("\ufeff"), name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        return SyntaxError(f"{type(error).__name__} {error}", (name, 1, 1, ""))
    return None


def _classes(
    source: Source, rules: Rules | None, config: Mapping[str, Any]
) -> tuple[ClassGraph, dict[str, Rule], Found]:
    graph = ClassGraph(source)
    ruled = rules_of(graph, rules or load_rules())
    found = apply_rules(source, graph, attention_classes(source, graph), ruled, config)
    return graph, ruled, idle_if_unmade(source, graph, found)


def _in_layout(site: Site, quantizer: str) -> Site:
    """A site as a quantizer can take it: msModelSlim's can't be told a layout, so the states are turned for it."""
    if site.layout == "BSHD" and quantizer != "fa3cli":
        site = replace(site, layout="BHSD", ways=dict.fromkeys(ROLES, TURN))
    return replace(site, others=tuple(_in_layout(each, quantizer) for each in site.others))


def _quantizers(
    source: Source,
    graph: ClassGraph,
    sites: Mapping[str, Site],
    architecture: str | None,
    rules: Mapping[str, Rule],
) -> list[Edit]:
    """Where the quantizers are made that the calls need."""
    layouts = {each.layout: name for name, site in sites.items() for each in (site, *site.others)}
    if len(layouts) > 1:
        first, second = layouts.values()
        raise source.refuse(graph.classes[second], f"{first} and {second} lay out their states differently")
    told = "BSHD" if "BSHD" in layouts else None
    modules = tuple(name for name, site in sites.items() if site.owner == "self")
    making = [attach(source, graph, owner, rules, told) for owner in owners(source, graph, modules)]
    processors = [name for name in sites if name not in modules]
    if processors:
        reachable = graph.reachable(architecture) if architecture else set(graph.classes)
        making += attach_to_modules(source, graph, processors, reachable, rules, told)
    return making


def _imports(source: Source, quantizer: str, making: list[Edit]) -> list[Edit]:
    """The imports the inserted lines need, one block above the file's own."""
    edit = quantizer_import(source, quantizer)
    if not any("(SimpleNamespace(" in each.inserted for each in making):
        return [edit]
    return [Edit(edit.offset, "", f"from types import SimpleNamespace{source.newline}"), edit]


def _calls(source: Source, site: Site) -> list[Edit]:
    around = [
        edit
        for role, expression in site.inside
        for edit in (
            Edit(source.start(expression), "", f"{site.owner}.fa_quantizer.quant("),
            Edit(source.end(expression), "", f', qkv="{role}")'),
        )
    ]
    if site.after is None:
        return around
    indent, newline = source.indent(site.after), source.newline
    lines = []
    for name, role in zip(site.states, ROLES):
        to, back = site.ways.get(role, ("", ""))
        lines.append(
            f'{indent}{name} = {site.owner}.fa_quantizer.quant({name}{to}, qkv="{role}"){back}{newline}'
        )
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
