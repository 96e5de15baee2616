"""Checks that the Python files named in auto_map entries, and the files they import, exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error
from fa3cli.exports.compressed_tensors import quoted
from fa3cli.exports.contents import Contents
from fa3cli.exports.json_documents import read_document
from fa3cli.files.reading import is_file_name, read_bytes

_FILE, _TOKENIZER = "config.json", "tokenizer_config.json"
# `owner/name`, neither of which is only dots: transformers would read any other text as a path on the server.
_REPOSITORY = re.compile(r"(?!\.+(/|$))[\w.-]+(/(?!\.+$)[\w.-]+)?", re.ASCII)


@check(
    "config-auto-map",
    "the patched modeling file is for calibration; no engine can run it",
    targets=LANGUAGE,
    needs=("config",),
)
def config_auto_map(contents: Contents) -> Iterator[Remark]:
    for name, reference in _references(contents.config_data):
        if _is_patched(reference):
            yield error(_FILE, f"auto_map maps {name} to {reference}; expected the model's own class, or no entry")


@check(
    "remote-code",
    "a model with its own code loads only if the export holds that file",
    targets=LANGUAGE,
    needs=("config",),
)
def remote_code(contents: Contents) -> Iterator[Remark]:
    """Follow references to files of the folder, and their imports; no other file is opened."""
    wanted: dict[str, str] = {}
    tokenizer = read_document(contents.folder, _TOKENIZER)
    for document, data in ((_FILE, contents.config_data), (_TOKENIZER, tokenizer.data or {})):
        for name, reference in _references(data):
            if _is_patched(reference) or _is_in_repository(reference):
                continue
            if file := _module_file(reference):
                wanted.setdefault(file, f"auto_map of {document} maps {name} to it")
            else:
                yield error(
                    document, f"auto_map maps {name} to {quoted(reference)}; expected module.Class of a module.py here"
                )
    waiting = list(wanted)
    while waiting:
        file = waiting.pop(0)
        try:
            source = read_bytes(contents.folder / file)
        except FileNotFoundError:
            yield error(file, f"is missing; {wanted[file]}")
            continue
        except OSError as unread:
            yield error(file, f"cannot be read: {unread.strerror}; {wanted[file]}")
            continue
        for imported in _relative_imports(source):
            if imported not in wanted:  # imports may be circular
                wanted[imported] = f"{file} imports it"
                waiting.append(imported)


def _references(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of auto_map; a tokenizer's slow and fast classes are a list, with null for a missing one."""
    auto_map = data.get("auto_map")
    if isinstance(auto_map, list):  # the format of older tokenizers
        auto_map = {"AutoTokenizer": auto_map}
    if auto_map is not None and not isinstance(auto_map, dict):
        auto_map = {"every class": auto_map}
    for name, value in (auto_map or {}).items():
        for reference in value if isinstance(value, list) else [value]:
            if reference is not None:
                yield name, reference


def _is_patched(reference: Any) -> bool:
    return isinstance(reference, str) and "--" not in reference and _module(reference).endswith("_fa3")


def _is_in_repository(reference: Any) -> bool:
    """Tell whether transformers downloads the class from another repository: `owner/name--module.Class`."""
    repository, dashes, _ = str(reference).partition("--")
    return bool(dashes) and _REPOSITORY.fullmatch(repository) is not None


def _module_file(reference: Any) -> str | None:
    """Return the file of `module.Class`; None if transformers would not look for such a file in the folder."""
    if not isinstance(reference, str) or reference.count(".") != 1 or "--" in reference:
        return None
    module, class_name = reference.split(".")
    return f"{module}.py" if class_name.isidentifier() and module and is_file_name(f"{module}.py") else None


def _module(reference: str) -> str:
    return reference.rpartition(".")[0]


def _relative_imports(source: bytes) -> Iterator[str]:
    """Yield the files that Python source imports as `from .name import`; none if it cannot be parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and "." not in node.module:
            yield f"{node.module}.py"
