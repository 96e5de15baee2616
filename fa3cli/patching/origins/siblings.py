"""Checks the files that a modeling file of a weights folder imports: they must exist, and hold no attention."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.patching.locating.classes import AttentionClass, ClassGraph, attention_classes
from fa3cli.patching.locating.modalities import language_model
from fa3cli.patching.origins.installed import Installed
from fa3cli.patching.origins.needs import is_ours
from fa3cli.patching.origins.origin import read_source
from fa3cli.patching.source import Source, parse

__all__ = ["attention_elsewhere", "check_siblings"]

_PARTS = ("Attention", "DecoderLayer", "ForCausalLM", "LMHeadModel")


def check_siblings(source: Source, folder: Path) -> None:
    """Refuse imports, direct or indirect, that transformers could not load from a weights folder.

    transformers copies single files, imported as `from .name import`; it copies no subfolder and no file of a parent
    folder. InvalidInputError names a missing file. A file that imports the source itself is refused: it would load the
    unpatched classes too.
    """
    done, todo = {source.name}, [source]
    while todo:
        file = todo.pop()
        for node, module, path in _relative_imports(file, folder):
            if node.level > 1 or "." in module:
                raise file.refuse(
                    node, f"imports {'.' * node.level}{module}: transformers loads only files beside the modeling file"
                )
            if path == Path(source.name):
                raise file.refuse(node, f"imports {path.name} itself: this import would load the unpatched classes too")
            if not path.is_file():
                raise InvalidInputError(
                    f"{file.name}:{node.lineno}: imports .{module}, but {path} does not exist",
                    hint="download it beside the weights",
                )
            if str(path) not in done:
                done.add(str(path))
                todo.append(_parse(path))


def attention_elsewhere(installed: Installed, source: Source, folder: Path, class_name: str | None) -> list[str]:
    """Return the attention classes outside of this file that a class's language model is built of, with file:line.

    Files of the folder are read; classes of transformers are recognised by their names.
    """
    found, seen, read, graph_of, classes_of = [], set(), cache(_parse), cache(ClassGraph), cache(_attention)
    todo: list[tuple[Source, str | None]] = [(source, class_name)]
    while todo:
        file, name = todo.pop()
        used = _used(file, graph_of(file), name)
        if file is not source:
            classes = classes_of(file, graph_of(file))
            found += [
                f"{attention.name} ({file.name}:{attention.line})" for attention in classes if attention.name in used
            ]
        borrowed = _used_from_transformers(installed, file, used)
        found += [f"{part} of transformers ({file.name}:{line})" for part, line in borrowed]
        for node, _, path in _relative_imports(file, folder):
            for alias in node.names:
                wanted = None if alias.name == "*" or not node.module else alias.name
                if (wanted is None or (alias.asname or wanted) in used) and (path, wanted) not in seen:
                    seen.add((path, wanted))
                    todo.append((read(path), wanted))
    return list(dict.fromkeys(found))


def _attention(source: Source, graph: ClassGraph) -> list[AttentionClass]:
    return [found for found, _ in attention_classes(source, graph).values()]


def _used(source: Source, graph: ClassGraph, name: str | None) -> set[str]:
    """Return the top-level names that the language model of a class refers to; all names without a class."""
    if name is None:
        return set().union(graph.references, *graph.references.values())
    return language_model(source, graph, name)


def _used_from_transformers(installed: Installed, source: Source, used: set[str]) -> Iterator[tuple[str, int]]:
    """Yield layers and language models of transformers that a file uses, with the line of their import."""
    models = {name.replace("ForCausalLM", "Model") for name in installed.causal_lms.values()}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module and is_ours(node.module):
            for alias in node.names:
                name = alias.name
                is_part = name in models or name.endswith(_PARTS)
                # Models created through AutoModel are handled where the source is searched.
                if is_part and not name.startswith("Auto") and (alias.asname or name) in used:
                    yield name, node.lineno


def _relative_imports(source: Source, folder: Path) -> Iterator[tuple[ast.ImportFrom, str, Path]]:
    """Yield every relative import with its module and the module's file; `from . import x` imports the module x."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            for module in [node.module] if node.module else [alias.name for alias in node.names]:
                yield node, module, folder / f"{module}.py"


def _parse(path: Path) -> Source:
    return parse(read_source(path), str(path))
