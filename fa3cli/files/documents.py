"""Parses json and TOML documents, and gives them types; whatever is wrong with one is a ValueError."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from fa3cli.files.reading import SMALL, read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["parse_json", "parse_toml", "read_json", "typed"]

T = TypeVar("T")

# No document of a model comes near it, and code that walks a document by recursion is safe below it.
_DEEPEST = 100
# Wider ones overflow where they meet floats, and Python refuses to print very wide ones.
_WIDEST = 1023


def read_json(path: Path, limit: int = SMALL) -> Any:
    """Return what a json file says; raises OSError as `read_bytes` does, ValueError as `parse_json` does."""
    return parse_json(read_bytes(path, limit).decode("utf-8"))


def parse_json(text: str, *, unique: bool = False) -> Any:
    """Return what a json text says, without its byte order mark.

    Raises ValueError where it is not json, nests deeper than 100 levels, holds text that is not Unicode or a number too
    wide for a float, or, if keys must be `unique`, where an object has a key twice: readers differ in which of the two
    they take.
    """
    hook = _unique if unique else None
    try:
        data = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=hook)
    except RecursionError:
        raise _too_deep_error() from None
    _require_plain(data)
    return data


def parse_toml(data: bytes) -> dict[str, Any]:
    """Return the table of a TOML document; raises ValueError as `parse_json` does."""
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise _too_deep_error() from None
    _require_plain(table)
    return table


def typed(data: Any, kind: type[T]) -> T:
    """Return parsed data as a dataclass or another type; raises ValueError that says where the types differ."""
    import msgspec

    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _require_plain(data: Any) -> None:
    """Raise ValueError for values nested too deep, for text that can't be written again, and for too wide numbers."""
    level, depth = [data], 0
    while level:
        if depth > _DEEPEST:
            raise _too_deep_error()
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _require_unicode(value)
            elif isinstance(value, int) and value.bit_length() > _WIDEST:
                raise ValueError(f"a whole number of more than {_WIDEST} bits")
            elif isinstance(value, dict):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1


def _require_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"text that is not Unicode: {text[:80]!a}") from None


def _too_deep_error() -> ValueError:
    return ValueError(f"nested deeper than {_DEEPEST} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!a} is there twice")
    return data
