"""The pure core of patching: a modeling file's text in, the patched text and the list of edits out."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from collections.abc import Sequence

from fa3cli.errors import ConflictError, UnsupportedError
from fa3cli.patching.classes import AttentionClass, ClassGraph, attention_classes
from fa3cli.patching.edits import Edit, apply
from fa3cli.patching.imports import absolute_imports, quantizer_import
from fa3cli.patching.locate import ROLES, Site
from fa3cli.patching.source import Source, parse

__all__ = ["RULES", "PatchedSource", "list_source", "patch_source"]

# Counts up whenever the same source would be patched differently: older patches are then stale.
RULES = 1


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
            f"{name} has a fa_quantizer already, which fa3 didn't put there", hint="start from the unpatched file"
        )
    graph = ClassGraph(source)
    found = attention_classes(source, graph)
    chosen = _choose(source, graph, found, architecture, attention)
    family = set().union(*(graph.family(each) for each in chosen))
    patched, skipped = _split(source, graph, found, family, attention)
    edits = [*absolute_imports(source, package), quantizer_import(source, quantizer)]
    edits += [_calls(source, found[each][1]) for each in patched]
    edits += [_attach(source, graph, owner) for owner in _owners(source, graph, patched)]
    edits += _repair(source, graph) if native_class else []
    text = apply(source.text, edits)
    ast.parse(text.removeprefix("\ufeff"))
    ordered = tuple(sorted(edits, key=lambda edit: edit.offset))
    warnings = tuple(
        f"{each} is not patched ({found[each][0].problem}): do not load the model with flash attention"
        for each in skipped
    )
    return PatchedSource(text, ordered, tuple(found[each][0] for each in patched), warnings)


def list_source(data: bytes | str, *, name: str = "modeling.py") -> tuple[AttentionClass, ...]:
    """Every attention class of a modeling file, patchable or not."""
    source = parse(data, name)
    return tuple(each for each, _ in attention_classes(source, ClassGraph(source)).values())


def _choose(
    source: Source,
    graph: ClassGraph,
    found: dict[str, tuple[AttentionClass, Site | None]],
    architecture: str | None,
    attention: Sequence[str],
) -> list[str]:
    """The attention classes to start from: those asked for, or the family the architecture is built of."""
    if architecture is not None and architecture not in graph.classes:
        raise UnsupportedError(f"{source.name} has no class {architecture}, which config.json's architectures names")
    reachable = graph.reachable(architecture) if architecture else set(graph.classes)
    builders = [each for each in sorted(reachable) if each.startswith("AutoModel")]
    if builders:
        raise UnsupportedError(f"{source.name}: {architecture} builds a part by {builders[0]}: composite model")
    used = [each for each in found if each in reachable]
    names = ", ".join(f"{each} ({found[each][0].line})" for each in used) or "none"
    for each in attention:
        if each not in used:
            raise UnsupportedError(f"{source.name}: {architecture or 'the file'} has no attention class {each}",
                                   hint=f"its attention classes (and their lines): {names}")
    if attention:
        return list(attention)
    if not used:
        raise UnsupportedError(f"{source.name}: found no softmax attention that {architecture} is built of")
    if not set(used) <= graph.family(used[0]):
        raise UnsupportedError(f"{source.name}: {architecture} has several kinds of attention: {names}",
                               hint="name those to patch, each with --attention")
    return used[:1]


def _split(
    source: Source,
    graph: ClassGraph,
    found: dict[str, tuple[AttentionClass, Site | None]],
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


def _calls(source: Source, site: Site) -> Edit:
    indent, newline = source.indent(site.after), source.newline
    lines = [f'{indent}{name} = self.fa_quantizer.quant({name}, qkv="{role}")' for name, role in zip(site.states, ROLES)]
    offset = source.line_end(site.after)
    return Edit(offset, "", newline + "".join(line + newline for line in lines))


def _owners(source: Source, graph: ClassGraph, patched: list[str]) -> list[str]:
    """The classes whose `__init__` makes the quantizer: the topmost ones that every patched class runs through."""
    owners = []
    for name in patched:
        found = graph.method(name, "__init__")
        if found is None:
            raise source.refuse(graph.classes[name], f"{name} has no __init__ to make the quantizer in")
        while "super().__init__(" in ast.unparse(found[1]):
            above = next((each for base in graph.bases(found[0]) if (each := graph.method(base, "__init__"))), None)
            if above is None:
                break
            found = above
        owners += [found[0]] if found[0] not in owners else []
    return owners


def _attach(source: Source, graph: ClassGraph, owner: str) -> Edit:
    """Make the quantizer at the end of an `__init__`, from self.config or else the config argument."""
    init = graph.method(owner, "__init__")[1]
    nodes = list(ast.walk(init))
    if any(isinstance(node, ast.Return) for node in nodes):
        raise source.refuse(init, f"{owner}.__init__ returns early")
    has_config = any(isinstance(node, ast.Attribute) and ast.unparse(node) == "self.config" for node in nodes
                     if isinstance(getattr(node, "ctx", None), ast.Store))
    arguments = [argument.arg for argument in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)]
    if not has_config and "config" not in arguments:
        raise source.refuse(init, f"{owner}.__init__ has no config to give to the quantizer")
    last = init.body[-1]
    config = "self.config" if has_config else "config"
    line = f"{source.indent(init.body[0])}self.fa_quantizer = FAQuantizer({config}, logger){source.newline}"
    return Edit(source.line_end(last), "", line)


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
