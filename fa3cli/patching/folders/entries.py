"""Reads and writes single entries of a folder (file, link or nothing), with errors that have a hint."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fa3cli.errors import ConflictError, MissingCapabilityError
from fa3cli.files.locking import exclusive_lock, sweep
from fa3cli.files.reading import read_bytes
from fa3cli.files.writing import sync, write_file, write_link
from fa3cli.patching.folders.receipt import RECEIPT

__all__ = ["Entry", "Link", "exclusive_folder", "explain_write_errors", "original_link", "read_entry", "write_entry"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Link:
    """A symbolic link and its target."""

    target: str


Entry = bytes | Link | None
"""A file's bytes, a link, or nothing."""


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes in `folder`, into an fa3 error with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise MissingCapabilityError(
                f"no disk space to write in {folder}", hint="free disk space, or use --output"
            ) from None
        if error.errno == errno.EIO:
            raise MissingCapabilityError(
                f"the disk of {folder} fails: {error.strerror}", hint="check the disk, or use --output"
            ) from None
        raise ConflictError(
            f"cannot write in {folder}: {error.strerror} ({error.filename})",
            hint="--output DIR does not change this folder and creates a patched one with links to it",
        ) from None


def read_entry(path: Path) -> Entry:
    """Read the entry at a path; raises OSError if it is neither a link nor a file of bounded size."""
    if path.is_symlink():
        return Link(os.readlink(path))
    return read_bytes(path) if os.path.lexists(path) else None


def write_entry(path: Path, entry: Entry) -> None:
    """Write an entry atomically, or remove it (None); .fa3 is created for its first file and removed after its last."""
    own = path.parent.name == RECEIPT.parent.name
    if entry is None:
        if os.path.lexists(path):
            path.unlink(missing_ok=True)
            # Without sync, the entry could exist again after a crash of the system.
            sync(path.parent)
        if own:
            _remove_empty(path.parent)
        return
    if own:
        path.parent.mkdir(exist_ok=True)
    if isinstance(entry, Link):
        write_link(path, entry.target)
    else:
        write_file(path, entry)


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, if it exists, during the block, and remove leftovers of killed processes in it and beside it."""
    with suppress(OSError):
        # A killed --output leaves its temporary folder here. The parent may be read-only.
        sweep(folder.parent)
    with ExitStack() as stack:
        if folder.is_dir():
            with explain_write_errors(folder):
                stack.enter_context(exclusive_lock(folder))
                _remove_half_written(folder)
        yield


def _remove_half_written(folder: Path) -> None:
    """Remove half-written files of killed processes in a folder and its subfolders (.fa3 too); follow no links."""
    for place in [folder, *(entry for entry in folder.iterdir() if not entry.is_symlink() and entry.is_dir())]:
        with suppress(OSError):
            sweep(place)
    with suppress(OSError):
        _remove_empty(folder / RECEIPT.parent)


def _remove_empty(folder: Path) -> None:
    try:
        if not folder.is_symlink():
            folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise


def original_link(path: Path, target: str | None, entry: Entry) -> Entry:
    """Return the symbolic link that a file was before the patch, if its target has the size of `entry`; else `entry`.

    A receipt may be forged, so the link's target is not opened.
    """
    if target is None or not isinstance(entry, bytes):
        return entry
    try:
        found = os.stat(path.parent / target)
    except (OSError, ValueError):
        return entry
    return Link(target) if stat.S_ISREG(found.st_mode) and found.st_size == len(entry) else entry
