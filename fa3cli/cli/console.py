"""Prints output: requested results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any
from unicodedata import category

from fa3cli.errors import Fa3Error

__all__ = ["note", "plain", "print_error", "print_event", "print_json", "warn"]


def note(message: str) -> None:
    """Print a message on stderr; it may hold names and values from untrusted files, so it is cleaned."""
    print("\n".join(map(plain, message.splitlines())), file=sys.stderr)


def warn(message: str) -> None:
    """Warn the user on stderr."""
    note(f"warning: {message}")


def plain(text: str) -> str:
    """Replace control characters of a text, which a terminal could take for commands."""
    return "".join("\N{REPLACEMENT CHARACTER}" if category(char).startswith("C") else char for char in text)


def print_error(error: Fa3Error) -> None:
    """Print an error and its hint, if it has one."""
    rank = os.environ.get("RANK", "0")
    note(f"error: {error}" if rank == "0" else f"rank {rank}: error: {error}")
    if error.hint:
        note(f"hint: {error.hint}")


def print_json(result: Any) -> None:
    """Print a result dataclass (or plain data) as json on stdout."""
    is_result = dataclasses.is_dataclass(result) and not isinstance(result, type)
    data = dataclasses.asdict(result) if is_result else result
    print(json.dumps(data, indent=2, ensure_ascii=False, default=_plain))


def print_event(event: str, result: Any) -> None:
    """Print a dataclass as one line of json on stdout, with the name of its event."""
    data = {"event": event, **dataclasses.asdict(result)}
    print(json.dumps(data, ensure_ascii=False, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no json form")
