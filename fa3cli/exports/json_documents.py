"""Reads json files of an export without raising: a problem is recorded, for a check to report."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa3cli.files.documents import parse_json
from fa3cli.files.reading import SMALL, read_bytes

__all__ = ["Document", "is_file", "read_document"]


@dataclass(frozen=True)
class Document:
    """A json file: `raw` is None if it is missing, `data` if it is missing or invalid; `problem` says why."""

    file: str
    raw: bytes | None
    data: dict[str, Any] | None
    problem: str | None


def read_document(folder: Path, name: str, limit: int = SMALL) -> Document:
    """Read a json object. A repeated key is a problem, since parsers differ in which value they use."""
    try:
        raw = read_bytes(folder / name, limit)
    except FileNotFoundError:
        return Document(name, None, None, "is missing")
    except OSError as error:
        return Document(name, b"", None, f"cannot be read: {error.strerror}")
    if raw.startswith(codecs.BOM_UTF8):
        return Document(name, raw, None, "begins with a byte order mark, which the json parsers of engines refuse")
    try:
        data = parse_json(raw.decode("utf-8"), unique=True)
    except ValueError as error:  # also UnicodeDecodeError
        return Document(name, raw, None, f"is not valid json: {error}")
    if not isinstance(data, dict):
        return Document(name, raw, None, f"holds a json {type(data).__name__}, expected an object")
    return Document(name, raw, data, None)


def is_file(path: Path) -> bool:
    """Tell whether a file exists. The name may be too long or hold a zero byte; the folder may be unreadable."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a zero byte
        return False
