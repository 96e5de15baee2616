"""A change of a text as data: what was removed and inserted where, so that it can be reversed exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fa3cli.errors import ConflictError

__all__ = ["Edit", "apply", "reverse"]


@dataclass(frozen=True)
class Edit:
    """At `offset` (characters of the *source* text) `removed` gave way to `inserted`."""

    offset: int
    removed: str
    inserted: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Return `text` with all edits made; they must not overlap, and edits at one offset keep their order."""
    parts, done = [], 0
    for edit in sorted(edits, key=lambda edit: edit.offset):
        end = edit.offset + len(edit.removed)
        if edit.offset < done or text[edit.offset : end] != edit.removed:
            raise ConflictError(
                f"the text is not the one the edits were made for (at character {edit.offset})"
            )
        parts += [text[done : edit.offset], edit.inserted]
        done = end
    return "".join([*parts, text[done:]])


def reverse(text: str, edits: Iterable[Edit]) -> str:
    """Return the text `apply` was given, from the text it made and the same edits."""
    inverse, shift = [], 0
    for edit in sorted(edits, key=lambda edit: edit.offset):
        inverse.append(Edit(edit.offset + shift, edit.inserted, edit.removed))
        shift += len(edit.inserted) - len(edit.removed)
    return apply(text, inverse)
