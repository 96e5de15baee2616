"""Checks of the Python code that a folder's json files send a server to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error
from fa3cli.exports.contents import Contents
from fa3cli.exports.documents import is_file, read_document

_FILE, _TOKENIZER = "config.json", "tokenizer_config.json"


@check(
    "config-auto-map",
    "the patched modeling file serves calibration; no engine can run it",
    targets=LANGUAGE,
    needs=("config",),
)
def config_auto_map(contents: Contents) -> Iterator[Remark]:
    for name, reference in _code_references(contents.config.data):
        if _module(reference).endswith("_fa3"):
            yield error(
                _FILE, f"auto_map sends {name} to {reference}; expected the model's own entry, or none"
            )


@check(
    "remote-code",
    "a model with code of its own loads only with that file beside it",
    targets=LANGUAGE,
    needs=("config",),
)
def remote_code(contents: Contents) -> Iterator[Remark]:
    tokenizer = read_document(contents.folder, _TOKENIZER)
    wanted: dict[str, str] = {}
    for document, data in ((_FILE, contents.config.data), (_TOKENIZER, tokenizer.data or {})):
        for name, reference in _code_references(data):
            if not _module(reference).endswith("_fa3"):
                wanted.setdefault(f"{_module(reference)}.py", f"auto_map of {document} sends {name} to it")
    waiting = list(wanted)
    while waiting:
        file = waiting.pop(0)
        if not is_file(contents.folder / file):
            yield error(file, f"is missing; {wanted[file]}")
            continue
        for imported in _relative_imports(contents.folder / file):
            if imported not in wanted:
                wanted[imported] = f"{file} imports it"
                waiting.append(imported)


def _code_references(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The local `module.Class` references of auto_map; `repository--module.Class` lies elsewhere."""
    auto_map = data.get("auto_map")
    for name, value in (auto_map if isinstance(auto_map, dict) else {}).items():
        for reference in value if isinstance(value, list) else [value]:
            if isinstance(reference, str) and "--" not in reference:
                yield name, reference


def _module(reference: str) -> str:
    return reference.rpartition(".")[0]


def _relative_imports(path: Path) -> Iterator[str]:
    """The files beside it that a Python file imports as `from .name import`; none where it can't be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and "." not in node.module:
            yield f"{node.module}.py"
