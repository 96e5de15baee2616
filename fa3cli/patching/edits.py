"""Describes a change of a text as edits (offset, removed, inserted), which can be reversed exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate

from fa3cli.errors import ConflictError

__all__ = ["Edit", "apply", "between", "reverse"]


@dataclass(frozen=True)
class Edit:
    """At `offset` (in characters of the *source* text), `removed` was replaced by `inserted`."""

    offset: int
    removed: str
    inserted: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Return `text` with all edits made; they must not overlap, and edits at one offset keep their order."""
    parts, done = [], 0
    for edit in sorted(edits, key=lambda edit: edit.offset):
        end = edit.offset + len(edit.removed)
        if edit.offset < done or text[edit.offset : end] != edit.removed:
            raise ConflictError(f"the edits were made for another text (at character {edit.offset})")
        parts += [text[done : edit.offset], edit.inserted]
        done = end
    return "".join([*parts, text[done:]])


def reverse(text: str, edits: Iterable[Edit]) -> str:
    """Undo `apply`: return the original text, from the changed text and the same edits."""
    inverse, shift = [], 0
    for edit in sorted(edits, key=lambda edit: edit.offset):
        inverse.append(Edit(edit.offset + shift, edit.inserted, edit.removed))
        shift += len(edit.inserted) - len(edit.removed)
    return apply(text, inverse)


def between(before: str, after: str) -> tuple[Edit, ...]:
    """Return the edits that change `before` to `after`: added or removed lines, and changed parts of other lines."""
    return tuple(_changes(before, after, r"[^\n]*\n|[^\n]+", [r"\w+|\s+|[^\w\s]+"], 0))


def _changes(before: str, after: str, unit: str, finer: list[str], start: int) -> Iterator[Edit]:
    old, new = re.findall(unit, before), re.findall(unit, after)
    offsets = list(accumulate(map(len, old), initial=start))
    for kind, first, last, begin, end in SequenceMatcher(None, old, new).get_opcodes():
        removed, inserted = "".join(old[first:last]), "".join(new[begin:end])
        if kind == "replace" and finer:
            yield from _changes(removed, inserted, finer[0], finer[1:], offsets[first])
        elif kind != "equal":
            yield Edit(offsets[first], removed, inserted)
