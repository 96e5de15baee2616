"""Checks of the Python code that a folder's json files send a server to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error
from fa3cli.exports.compressed_tensors import short
from fa3cli.exports.contents import Contents
from fa3cli.exports.json_documents import read_document
from fa3cli.files.reading import is_file_name, read_bytes

_FILE, _TOKENIZER = "config.json", "tokenizer_config.json"
# `owner/name`, neither of them points alone: anything else would be a path on the server.
_REPOSITORY = re.compile(r"(?!\.+(/|$))[\w.-]+(/(?!\.+$)[\w.-]+)?", re.ASCII)


@check(
    "config-auto-map",
    "the patched modeling file serves calibration; no engine can run it",
    targets=LANGUAGE,
    needs=("config",),
)
def config_auto_map(contents: Contents) -> Iterator[Remark]:
    for name, reference in _references(contents.config.data):
        if _is_patched(reference):
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
    """Follow every reference to a file beside, and that file's imports; no other file is opened."""
    wanted: dict[str, str] = {}
    tokenizer = read_document(contents.folder, _TOKENIZER)
    for document, data in ((_FILE, contents.config.data), (_TOKENIZER, tokenizer.data or {})):
        for name, reference in _references(data):
            if _is_patched(reference) or _lies_elsewhere(reference):
                continue
            if file := _file_of(reference):
                wanted.setdefault(file, f"auto_map of {document} sends {name} to it")
            else:
                yield error(
                    document,
                    f"auto_map sends {name} to {short(reference)}; expected module.Class, the module a file in this folder",
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
            if imported not in wanted:
                wanted[imported] = f"{file} imports it"
                waiting.append(imported)


def _references(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what auto_map sends each class to; a tokenizer's slow and fast class are a list, with null for none."""
    auto_map = data.get("auto_map")
    if isinstance(auto_map, list):  # as older tokenizers have it
        auto_map = {"AutoTokenizer": auto_map}
    if auto_map is not None and not isinstance(auto_map, dict):
        auto_map = {"every class": auto_map}
    for name, value in (auto_map or {}).items():
        for reference in value if isinstance(value, list) else [value]:
            if reference is not None:
                yield name, reference


def _is_patched(reference: Any) -> bool:
    return isinstance(reference, str) and "--" not in reference and _module(reference).endswith("_fa3")


def _lies_elsewhere(reference: Any) -> bool:
    """Tell whether transformers would fetch the class from another repository: `owner/name--module.Class`."""
    repository, dashes, _ = str(reference).partition("--")
    return bool(dashes) and _REPOSITORY.fullmatch(repository) is not None


def _file_of(reference: Any) -> str | None:
    """Return the file beside that `module.Class` means; None where transformers would look for no such file."""
    if not isinstance(reference, str) or reference.count(".") != 1 or "--" in reference:
        return None
    module, class_name = reference.split(".")
    return f"{module}.py" if class_name.isidentifier() and module and is_file_name(f"{module}.py") else None


def _module(reference: str) -> str:
    return reference.rpartition(".")[0]


def _relative_imports(source: bytes) -> Iterator[str]:
    """Yield the files beside it that Python source imports as `from .name import`; none where it can't be parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and "." not in node.module:
            yield f"{node.module}.py"
