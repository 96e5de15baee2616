"""Mutates modeling files: cuts them, moves lines or words, inserts brackets."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

__all__ = ["mutated"]

_WORD = re.compile(r"\w+|[^\w\s]")


def mutated(choice: random.Random, text: str) -> str:
    """Change a text up to six times."""
    for _ in range(choice.randint(1, 6)):
        text = choice.choice(_CHANGES)(choice, text)
    return text


def _state_expression(choice: random.Random, text: str) -> str:
    return text[: choice.randrange(len(text) // 2, len(text) + 1)]


def _lines(change: Callable[[random.Random, list[str]], None]) -> Callable[[random.Random, str], str]:
    def changed(choice: random.Random, text: str) -> str:
        lines = text.split("\n")
        change(choice, lines)
        return "\n".join(lines)

    return changed


def _swap(choice: random.Random, lines: list[str]) -> None:
    first, second = choice.randrange(len(lines)), choice.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]


def _repeat(choice: random.Random, lines: list[str]) -> None:
    start = choice.randrange(len(lines))
    lines[start:start] = lines[start : start + choice.randint(1, 20)]


def _remove(choice: random.Random, lines: list[str]) -> None:
    start = choice.randrange(len(lines))
    del lines[start : start + choice.choice([1, 1, 1, 5])]


def _join(choice: random.Random, lines: list[str]) -> None:
    at = choice.randrange(len(lines))
    lines[at : at + 2] = ["; ".join(line.strip() for line in lines[at : at + 2])]


def _replace(choice: random.Random, text: str) -> str:
    """Replace a word by another word of the text, so that the result is often still Python."""
    words = list(_WORD.finditer(text))
    old, new = choice.choice(words), choice.choice(words)
    return text[: old.start()] + new.group() + text[old.end() :]


def _insert(choice: random.Random, text: str) -> str:
    at = choice.randrange(len(text))
    odd = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "\n",
        "\r",
        "\t",
        "\\",
        "'",
        '"""',
        "*",
        "**",
        ":=",
        ",",
        "lambda: ",
        "await ",
    ]
    return text[:at] + choice.choice(odd) + text[at:]


_CHANGES = [
    _state_expression,
    *map(_lines, (_swap, _repeat, _remove, _join)),
    _replace,
    _replace,
    _replace,
    _insert,
]
