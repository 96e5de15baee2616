"""A change of a text as data: what was removed and inserted where, so that it can be reversed exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fa3cli.errors import ConflictError

__all__ = ["Edit", "apply", "compose", "reverse"]


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


def compose(first: Iterable[Edit], second: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits that do at once what `first` and then, on the text it made, `second` do.

    An edit of the second lies within what one of the first inserted, or clear of it; ConflictError otherwise.
    """
    made, shift = [], 0
    # Each edit of the first, where what it inserted begins, and the edits of the second within that.
    for edit in sorted(first, key=lambda edit: edit.offset):
        made.append((edit, edit.offset + shift, []))
        shift += len(edit.inserted) - len(edit.removed)
    # By the place in the text between; what the second does ahead of an insertion goes before it.
    found = [(start, 1, old, inner) for old, start, inner in made]
    for edit in sorted(second, key=lambda edit: edit.offset):
        end, back, order = edit.offset + len(edit.removed), 0, 0
        for old, start, inner in made:
            stop = start + len(old.inserted)
            if start < edit.offset and end <= stop and (edit.offset < stop or edit.removed):
                inner.append(Edit(edit.offset - start, edit.removed, edit.inserted))
                break
            if stop <= edit.offset:
                back += len(old.removed) - len(old.inserted)
                order = 2 if start == edit.offset else order
            elif start < end:
                raise ConflictError(f"two edits overlap (at character {edit.offset})")
        else:
            found.append((edit.offset, order, Edit(edit.offset + back, edit.removed, edit.inserted), []))
    found.sort(key=lambda each: each[:2])
    return tuple(Edit(each.offset, each.removed, apply(each.inserted, inner)) for _, _, each, inner in found)
