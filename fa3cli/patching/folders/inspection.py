"""Inspects a folder: reads its index and its receipt, and checks whether its files still match the receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError
from fa3cli.patching.edits import Edit
from fa3cli.patching.folders.config_json import Config
from fa3cli.patching.folders.entries import read_entry
from fa3cli.patching.folders.exchange import Patched
from fa3cli.patching.folders.receipt import (
    RECEIPT,
    UNREADABLE,
    Change,
    FileChange,
    Receipt,
    digest_of,
    read_receipt,
    sha256,
)
from fa3cli.patching.folders.reverting import unpatched
from fa3cli.patching.formats import Format, format_of

__all__ = ["Disk", "look", "original_index", "patched_parts", "refuse_links", "unpatched_config"]


@dataclass(frozen=True)
class Disk:
    """The patch state of a folder, not yet compared with the installed library.

    `edited` says which files were changed since fa3 wrote them, `foreign` describes a patch that fa3 did not make.
    `modules` are the digests of the patched files, None for a missing file.
    """

    folder: Path
    index: Config
    receipt: Receipt | None
    edited: str | None = None
    foreign: str | None = None
    modules: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the patch is complete and unchanged."""
        if self.receipt is None or self.edited or None in self.modules.values():
            return False
        change = self.receipt.index
        return change is None or sha256(self.index.text.encode()) == change.after


def look(form: Format, folder: Path) -> Disk:
    """Read a folder's index and receipt, and compare its files with the receipt."""
    receipt = read_receipt(folder)
    index = form.read_index(folder, patched=bool(receipt and receipt.index))
    if receipt is None:
        return Disk(folder, index, None, foreign=form.foreign(folder, index))
    if receipt.library != form.library:
        raise ConflictError(
            f"{folder / RECEIPT} belongs to a patch of {receipt.library}, but this is a folder for {form.library}",
            hint="restore the receipt that fa3 wrote from a copy of the folder",
        )
    refuse_links(folder, receipt.files)
    modules = {name: digest_of(folder / name) for name in receipt.modules}
    changed = [file.module for file in receipt.files if modules[file.module] not in (None, file.modeling.after)]
    if receipt.index and sha256(index.text.encode()) not in (receipt.index.before, receipt.index.after):
        changed.append(form.index)
    edited = " and ".join(changed) + " changed since fa3 wrote it" if changed else None
    return Disk(folder, index, receipt, edited, modules=modules)


def original_index(disk: Disk) -> Config:
    """Return the index without fa3's edits; later changes made by hand stay in it."""
    if disk.receipt is None or disk.receipt.index is None:
        return disk.index
    return unpatched(disk.index, disk.receipt.index)


def unpatched_config(folder: str | Path) -> dict[str, Any]:
    """Return the data of config.json or model_index.json without fa3's edits and entries for a file patched by hand."""
    folder = Path(folder)
    form = format_of(folder)
    index = original_index(look(form, folder))
    data = dict(index.data)
    if own := form.hand_made(index):
        entries = index.auto_map.items()
        data["auto_map"] = {key: entry for key, entry in entries if str(entry).rpartition(".")[0] != own.stem}
    return data


def patched_parts(form: Format, disk: Disk, original: str) -> Patched:
    """Return the patch that a folder has; `original` is the text of its index without that patch."""
    receipt = disk.receipt
    if receipt is None:
        return Patched({form.index: read_entry(disk.folder / form.index)})
    index, explained, text = None, not disk.edited, disk.index.text
    if receipt.index is not None:
        index = Change.of(original, text, [Edit(0, original, text)])
        explained = explained and index.before == receipt.index.before
    bridge = replace(receipt, index=index, files=tuple(_as_found(file, disk) for file in receipt.files))
    unpatched_index = {form.index: original.encode()} if index else {}
    return Patched(unpatched_index, receipt.modules, None if explained else bridge.to_json().encode())


def refuse_links(folder: Path, files: Iterable[FileChange]) -> None:
    """Refuse to write or remove a file in a component folder that is a link: the file would be in another folder."""
    for place in dict.fromkeys(folder / file.component for file in files if file.component):
        if place.is_symlink():
            raise ConflictError(
                f"{place} is a link to {place.readlink()}: fa3 changes no files through links",
                hint="--output DIR does not change this folder and creates a patched one with links to it",
            )


def _as_found(file: FileChange, disk: Disk) -> FileChange:
    found = disk.modules[file.module]
    after = file.modeling.after if found is None or found == UNREADABLE else found
    return replace(file, modeling=replace(file.modeling, after=after))
