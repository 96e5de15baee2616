"""Json files read without raising: what is wrong with one is kept beside it, for a check to report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Document", "is_file", "read_document"]


@dataclass(frozen=True)
class Document:
    """A json file: `raw` is None if it is missing, `data` if it is missing or broken; `problem` says how."""

    file: str
    raw: bytes | None
    data: dict[str, Any] | None
    problem: str | None


def read_document(folder: Path, name: str) -> Document:
    """Read a json object; one with the same key twice counts as broken, since readers differ in which they take."""
    raw = b""
    if (folder / name).exists() and not (folder / name).is_file():  # a pipe would be waited for
        return Document(name, raw, None, "is not a file")
    try:
        raw = (folder / name).read_bytes()
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError:
        return Document(name, None, None, "is missing")
    except OSError as error:
        return Document(name, raw, None, f"cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return Document(name, raw, None, f"is not valid json: {error}")
    if not isinstance(data, dict):
        return Document(name, raw, None, f"holds a json {type(data).__name__}, expected an object")
    return Document(name, raw, data, None)


def is_file(path: Path) -> bool:
    """Whether there is a file of a name that may come out of a document: too long, or with a zero byte in it."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name} is there twice")
    return data
