"""Restores config.json or model_index.json as it was before fa3 edited it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.patching.edits import Edit, reverse
from fa3cli.patching.folders.config_json import Config, read_config
from fa3cli.patching.folders.receipt import RECEIPT, Change, sha256

__all__ = ["remove_edits", "unpatched"]


def unpatched(index: Config, change: Change) -> Config:
    """Return a document without the edits of a receipt; later changes made by hand stay in it.

    Raises ConflictError if the edits do not lead back to the text whose digest the receipt has.
    """
    digest = sha256(index.text.encode())
    if digest == change.before:
        return index
    try:
        if digest != change.after:
            return read_config(index.path, remove_edits(index, change.edits))
        text = reverse(index.text, change.edits)
        if sha256(text.encode()) == change.before:
            return read_config(index.path, text)
    except InvalidInputError as error:
        raise ConflictError(
            f"{index.path}: without fa3's edits it is invalid: {error}", hint="restore it from a copy"
        ) from None
    raise ConflictError(
        f"{index.path}: the edits in {RECEIPT} do not lead back to the file they were made for",
        hint="restore both from a copy",
    )


def remove_edits(index: Config, edits: Sequence[Edit]) -> str:
    """Remove `edits` from a document that was changed by hand since; ConflictError if they cannot be identified."""
    text = index.text
    ordered = sorted(edits, key=lambda edit: edit.offset)
    for inserted in dict.fromkeys(edit.inserted for edit in ordered):
        removed = [edit.removed for edit in ordered if edit.inserted == inserted]
        if not inserted or text.count(inserted) != len(removed):
            raise ConflictError(
                f"{index.path}: cannot tell what fa3 inserted from what was changed since",
                hint=f"write {inserted!r} into it again as fa3 wrote it, or restore it from a copy",
            )
        parts = text.split(inserted)
        text = "".join(part + old for part, old in zip_longest(parts, removed, fillvalue=""))
    return text
