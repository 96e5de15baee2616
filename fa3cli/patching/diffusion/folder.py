"""What lies in a pipeline's folder: model_index.json, a receipt if fa3 patched it, and whether they still fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.patching.config_json import Config, read_config
from fa3cli.patching.diffusion.index import INDEX
from fa3cli.patching.diffusion.receipt import (
    FileChange,
    PipelineReceipt,
    is_receipt_of_pipeline,
    read_receipt,
)
from fa3cli.patching.edits import Edit
from fa3cli.patching.exchange import Patched
from fa3cli.patching.files import entry_of
from fa3cli.patching.receipt import UNREADABLE, Change, digest_of, sha256
from fa3cli.patching.reverting import unpatched

__all__ = ["Disk", "is_pipeline", "look", "original_index", "patched_parts", "refuse_links"]


@dataclass(frozen=True)
class Disk:
    """What lies in a folder; `edited` says what was changed since fa3 wrote it.

    `modules` are the digests of the patched files, None for those that are missing.
    """

    index: Config | None
    receipt: PipelineReceipt | None
    edited: str | None = None
    modules: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether a patch is there as it was written, all of it."""
        if self.receipt is None or self.edited or None in self.modules.values():
            return False
        change = self.receipt.index
        return change is None or sha256(self.index.text.encode()) == change.after


def is_pipeline(folder: str | Path, modeling: str | Path | None = None) -> bool:
    """Whether a folder is one of diffusers: it has a model_index.json, or no config.json but a file to start from."""
    folder = Path(folder)
    if is_receipt_of_pipeline(folder) or os.path.lexists(folder / INDEX):
        return True
    return modeling is not None and folder.is_dir() and not os.path.lexists(folder / "config.json")


def look(folder: Path) -> Disk:
    """Read a folder's index and receipt, and compare its files with the receipt."""
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is not a folder")
    receipt = read_receipt(folder)
    has_index = os.path.lexists(folder / INDEX) or (receipt and receipt.index)
    index = read_config(folder / INDEX) if has_index else None
    if receipt is None:
        return Disk(index, None)
    refuse_links(folder, receipt.files)
    modules = {each.module: digest_of(folder / each.module) for each in receipt.files}
    changed = [
        each.module for each in receipt.files if modules[each.module] not in (None, each.modeling.after)
    ]
    if receipt.index and sha256(index.text.encode()) not in (receipt.index.before, receipt.index.after):
        changed.append(INDEX)
    edited = " and ".join(changed) + " changed since fa3 wrote it" if changed else None
    return Disk(index, receipt, edited, modules)


def original_index(disk: Disk) -> Config | None:
    """model_index.json as it was without fa3's edits; changes made by hand since stay in it."""
    if disk.index is None or disk.receipt is None or disk.receipt.index is None:
        return disk.index
    return unpatched(disk.index, disk.receipt.index)


def patched_parts(folder: Path, disk: Disk, original: str | None) -> Patched:
    """The patch of a folder whose model_index.json is to be `original` without it."""
    receipt = disk.receipt
    if receipt is None:
        return Patched(INDEX, entry_of(folder / INDEX))
    modules = tuple(each.module for each in receipt.files)
    index, data, explained = None, None, not disk.edited
    if receipt.index is not None:
        data, text = original.encode(), disk.index.text
        explained = explained and sha256(data) == receipt.index.before
        index = Change(sha256(data), sha256(text.encode()), (Edit(0, original, text),))
    bridge = replace(receipt, index=index, files=tuple(_as_found(each, disk) for each in receipt.files))
    return Patched(INDEX if index else None, data, modules, None if explained else bridge.to_json().encode())


def refuse_links(folder: Path, files: Iterable[FileChange]) -> None:
    """Refuse to write or to remove a file in a part of a pipeline that is a link: it lies elsewhere."""
    for place in dict.fromkeys(folder / each.component for each in files if each.component):
        if place.is_symlink():
            raise ConflictError(
                f"{place} is a link to {place.readlink()}: fa3 changes nothing through it",
                hint="--output DIR leaves the folder as it is and makes a patched one of links to it",
            )


def _as_found(file: FileChange, disk: Disk) -> FileChange:
    found = disk.modules[file.module]
    after = file.modeling.after if found in (None, UNREADABLE) else found
    return replace(file, modeling=replace(file.modeling, after=after))
