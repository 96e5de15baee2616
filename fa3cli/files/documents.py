"""Parses json and TOML documents, and converts them to types; every error in a document is a ValueError."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from fa3cli.files.reading import SMALL, read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["parse_json", "parse_toml", "read_json", "typed"]

T = TypeVar("T")

# Real documents are far below this depth, and recursive code is safe up to it.
_DEEPEST = 100
# Wider whole numbers overflow when they are converted to float, and Python refuses to print very wide ones.
_WIDEST = 1023


def read_json(path: Path, limit: int = SMALL) -> Any:
    """Return the data of a json file; raises OSError as `read_bytes` does, ValueError as `parse_json` does."""
    return parse_json(read_bytes(path, limit).decode("utf-8"))


def parse_json(text: str, *, unique: bool = False) -> Any:
    """Return the data of a json text, which may start with a byte order mark.

    Raises ValueError if the text is not json, is nested deeper than 100 levels, or holds a number too wide for a float
    or a string that is not Unicode. With `unique`, a key that an object has twice is a ValueError, too: readers differ
    in which of the two values they use.
    """
    hook = _unique if unique else None
    try:
        # json refuses the byte order mark, which some Windows editors write.
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


def typed(data: Any, kind: type[T], *, unknown: bool = True) -> T:
    """Convert parsed data to a dataclass or another type; raises ValueError that names the place of a wrong type.

    Unless `unknown` keys are allowed, a key that the type (a dataclass) does not have is a ValueError, too.
    """
    # Imported here, since `fa3 --help` must start fast.
    import msgspec

    try:
        converted = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if not unknown and is_dataclass(converted) and not isinstance(converted, type):
        _refuse_unknown(data, asdict(converted), "$")
    return converted


def _refuse_unknown(data: Any, known: Any, place: str) -> None:
    if isinstance(data, dict) and isinstance(known, dict):
        for key, value in data.items():
            if key not in known:
                near = get_close_matches(key, known, n=1) or sorted(known)
                raise ValueError(f"unknown key {key!r}, expected {' or '.join(near)} - at `{place}`")
            _refuse_unknown(value, known[key], f"{place}.{key}")
    elif isinstance(data, list):
        for number, (value, known_value) in enumerate(zip(data, known)):
            _refuse_unknown(value, known_value, f"{place}[{number}]")


def _require_plain(data: Any) -> None:
    """Raise ValueError for values nested too deep, text that cannot be encoded, and numbers that are too wide."""
    # Level by level, without recursion: the data may be nested deeper than Python can recurse here.
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
        raise ValueError(f"{name!a} occurs twice")
    return data
