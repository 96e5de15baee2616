"""Patches the text of a modeling file; reads and writes no files except the shipped rules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fa3cli.patching.attach import attach, owners
from fa3cli.patching.edits import Edit, between
from fa3cli.patching.guarded import guard_imports
from fa3cli.patching.imports import absolute_imports, quantizer_import
from fa3cli.patching.locating.choice import choose
from fa3cli.patching.locating.classes import AttentionClass, ClassGraph, Found, attention_classes
from fa3cli.patching.locating.layout_change import TRANSPOSE
from fa3cli.patching.locating.locate import ROLES, Site
from fa3cli.patching.origins.origin import quantizer_exists_error
from fa3cli.patching.places import Around, Below, End, Place
from fa3cli.patching.processors import attach_to_modules, mark_unused_processors
from fa3cli.patching.rewriting import write
from fa3cli.patching.rules.rule import Rule, Rules
from fa3cli.patching.rules.rule_files import load_rules
from fa3cli.patching.rules.ruled import apply_rules, rules_of
from fa3cli.patching.source import Source, parse

__all__ = ["RULES", "PatchedSource", "list_source", "patch_source"]

# Increased whenever fa3 would patch the same source differently; patches with a lower number are stale.
RULES = 2


@dataclass(frozen=True)
class PatchedSource:
    """The patched text, the unpatched text `source`, the patched classes, and warnings.

    `rules` maps the rule files that matched to their digests.
    """

    text: str
    source: str
    attention: tuple[AttentionClass, ...]
    warnings: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The difference of the two texts."""
        return between(self.source, self.text)


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
    """Insert the quantizer and its three calls into a modeling file's attention, and make its imports absolute.

    `package` is the package of the file's relative imports (None: relative imports stay), `architecture` the model's
    class, `attention` the requested classes (none: all that build the architecture). `native_class` adds code to keep
    transformers 5.13.1 and newer from treating the models as custom code. `rules` are the rules to use (None: the
    shipped ones), `config` is the data of config.json.
    Raises UnsupportedError (file:line and the reason) if the result is not certain to be correct.
    """
    source, config = parse(data, name), config or {}
    if "fa_quantizer" in source.text:
        raise quantizer_exists_error(name, "start from the unpatched file")
    graph, ruled, found = _classes(source, rules, config)
    choice = choose(source, graph, found, architecture, attention, config)
    sites = {name: _for_quantizer(site, quantizer) for name in choice.patched if (site := found[name][1])}
    quantizers = _quantizer_places(source, graph, sites, architecture, ruled)
    # diffusers does not check the packages that a file imports.
    guards = [] if (package or "").startswith("diffusers.") else guard_imports(source)
    types = ["from types import SimpleNamespace"] * any(
        "(SimpleNamespace(" in "".join(place.lines) for place in quantizers
    )
    places: list[Place] = [
        *guards,
        *absolute_imports(source, package),
        quantizer_import(source, quantizer, *types),
        *quantizers,
    ]
    places += [place for first in sites.values() for site in (first, *first.others) for place in _calls(site)]
    places += _native_class_fix(source, graph) if native_class else []
    classes = tuple(found[name][0] for name in choice.patched)
    digests = {Path(rule.file).name: rule.digest for rule in ruled.values()}
    return PatchedSource(write(source, places), source.text, classes, choice.warnings, digests)


def list_source(
    data: bytes | str, *, name: str = "modeling.py", rules: Rules | None = None, config: Mapping[str, Any] | None = None
) -> tuple[AttentionClass, ...]:
    """Return every attention class of a modeling file, patchable or not."""
    _, _, found = _classes(parse(data, name), rules, config or {})
    return tuple(attention for attention, _ in found.values())


def _classes(
    source: Source, rules: Rules | None, config: Mapping[str, Any]
) -> tuple[ClassGraph, dict[str, Rule], Found]:
    graph = ClassGraph(source)
    ruled = rules_of(graph, rules or load_rules())
    found = apply_rules(source, graph, attention_classes(source, graph), ruled, config)
    return graph, ruled, mark_unused_processors(source, graph, found)


def _for_quantizer(site: Site, quantizer: str) -> Site:
    """Adapt a site to a quantizer: msModelSlim's has no layout argument, so the calls transpose the states."""
    if site.layout == "BSHD" and quantizer != "fa3cli":
        site = replace(site, layout="BHSD", layout_changes=dict.fromkeys(ROLES, TRANSPOSE))
    return replace(site, others=tuple(_for_quantizer(other, quantizer) for other in site.others))


def _quantizer_places(
    source: Source, graph: ClassGraph, sites: Mapping[str, Site], architecture: str | None, rules: Mapping[str, Rule]
) -> list[Below]:
    """Return the places that create the quantizers which the calls need."""
    layouts = {site.layout: name for name, first in sites.items() for site in (first, *first.others)}
    if len(layouts) > 1:
        first, second = layouts.values()
        raise source.refuse(graph.classes[second], f"{first} and {second} lay out their states differently")
    quantizer_layout = "BSHD" if "BSHD" in layouts else None
    modules = [name for name, site in sites.items() if site.owner == "self"]
    quantizers = [
        attach(source, owner, init, rules, quantizer_layout) for owner, init in owners(source, graph, modules).items()
    ]
    processors = [name for name in sites if name not in modules]
    if processors:
        reachable = graph.reachable(architecture) if architecture else set(graph.classes)
        quantizers += attach_to_modules(source, graph, processors, reachable, rules, quantizer_layout)
    return quantizers


def _calls(site: Site) -> Iterable[Around | Below]:
    if site.after is None:
        # Two branches may share one expression for a state, which must be wrapped once.
        return [Around(node, _quant_call(site, "_", role)) for role, node in dict.fromkeys(site.inside)]
    lines = [""]
    for name, role in zip(site.states, ROLES):
        to, back = site.layout_changes.get(role, ("", ""))
        lines.append(f"{name} = {_quant_call(site, name + to, role)}{back}")
    return [Below(site.after, tuple(lines))]


def _quant_call(site: Site, state: str, role: str) -> str:
    return f'{site.owner}.fa_quantizer.quant({state}, qkv="{role}")'


def _native_class_fix(source: Source, graph: ClassGraph) -> list[End]:
    """Append code that declares the file's models native.

    transformers 5.13.1 and newer skip checkpoint conversions for custom code; the weights that need a conversion would
    silently stay random.
    """
    roots = [
        name
        for name, node in graph.classes.items()
        if any(ast.unparse(base).split(".")[-1] == "PreTrainedModel" for base in node.bases)
    ]
    lines = [
        f'if hasattr({name}, "is_custom_code"):\n    {name}.is_custom_code = classmethod(lambda cls: False)\n'
        for name in roots
    ]
    return [End(source.tree, "\n\n" + "".join(lines))] if roots else []
