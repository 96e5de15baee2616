"""Finds the names that a file needs from transformers and that the installed version does not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fa3cli.patching.origins.installed import Installed
from fa3cli.patching.source import Source

__all__ = ["is_ours", "missing_names"]

# Each missing name costs a search through all of transformers.
_LIMIT = 100


def missing_names(installed: Installed, source: Source) -> list[str]:
    """Return the names that a file uses from transformers and this version lacks, as `a of b`, at most 100.

    Names under `if` or in the body of a `try` are not checked: the file can run without them.
    """
    wanted = dict.fromkeys(_required_names(installed, list(_unconditional(source.tree))))
    missing = (f"{name} of {module}" for module, name in wanted if _is_missing(installed, module, name))
    return list(islice(missing, _LIMIT))


def _unconditional(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node, without those under `if` or in the body of a `try`."""
    yield node
    for name, value in ast.iter_fields(node):
        if isinstance(node, (ast.If, ast.Try)) and name in ("test", "body", "orelse"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _unconditional(child)


def _required_names(installed: Installed, nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield pairs of a transformers module and a name that the file takes from it."""
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module and is_ours(node.module):
            for alias in node.names:
                if alias.name != "*":
                    yield node.module, alias.name
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_ours(alias.name) and (alias.asname or "." not in alias.name):
                    modules[alias.asname or alias.name] = alias.name
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if _files(installed, module, node.attr):
                yield module, node.attr


def is_ours(module: str) -> bool:
    """Tell whether a module, by its full name, is one of transformers."""
    return module.split(".")[0] == "transformers"


def _files(installed: Installed, module: str, name: str = "") -> list[Path]:
    """Return the file of a module, or the files of a package, which may export names that any of them defines."""
    path = installed.folder.joinpath(*module.split(".")[1:])
    if not path.is_dir():
        path = path.with_name(f"{path.name}.py")
        return [path] if path.exists() else []
    # transformers exports the classes of every model; some versions do so without naming them in a file.
    deep = module == "transformers" and name[:1].isupper()
    return [*sorted(path.glob("*.py")), *(sorted(path.glob("models/*/*.py")) if deep else [])]


def _is_missing(installed: Installed, module: str, name: str) -> bool:
    return not _files(installed, f"{module}.{name}") and not any(
        _defines_name(path.read_text("utf-8"), name) for path in _files(installed, module, name)
    )


def _defines_name(text: str, name: str) -> bool:
    """Tell whether a source text defines, assigns, imports or exports (as a quoted string) a name."""
    if name not in text:
        return False
    name = re.escape(name)
    return bool(
        re.search(
            rf"^\s*(?:(?:async )?def|class) {name}\b|^\s*{name}(?::[^=\n]*)? = |[\"']{name}[\"']"
            rf"|^(?:.*\bimport\b.*|\s+(?:\w+ as )?|.*\bas ){name}\b,?\s*(?:[,;)#].*)?$",
            text,
            re.MULTILINE,
        )
    )
