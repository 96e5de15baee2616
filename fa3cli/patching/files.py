"""One entry of a folder: what it is, and what it is made; what the system says about writing."""

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
from fa3cli.patching.receipt import RECEIPT

__all__ = [
    "Entry",
    "Link",
    "exclusive_folder",
    "explain_write_errors",
    "original_link",
    "read_entry",
    "write_entry",
]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Link:
    """A symbolic link and what it says."""

    target: str


Entry = bytes | Link | None
"""A file's bytes, a link, or nothing."""


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says about writing into an error with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise MissingCapabilityError(
                f"no room to write in {folder}", hint="free some, or use --output"
            ) from None
        if error.errno == errno.EIO:
            raise MissingCapabilityError(
                f"the disk of {folder} fails: {error.strerror}", hint="see to the disk, or use --output"
            ) from None
        raise ConflictError(
            f"cannot write in {folder}: {error.strerror} ({error.filename})",
            hint="--output DIR leaves the folder as it is and makes a patched one of links to it",
        ) from None


def read_entry(path: Path) -> Entry:
    """What a path is; raises OSError for what is neither a file of bounded size nor a link."""
    if path.is_symlink():
        return Link(os.readlink(path))
    return read_bytes(path) if os.path.lexists(path) else None


def write_entry(path: Path, entry: Entry) -> None:
    """Make a path what it should be, at once; .fa3 is made for what lies in it, and goes with the last of it."""
    own = path.parent.name == RECEIPT.parent.name
    if entry is None:
        if os.path.lexists(path):
            path.unlink(missing_ok=True)
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
    """Have a folder to oneself, if it is there already, without what killed processes left in it or beside it."""
    with suppress(OSError):
        sweep(folder.parent)
    with ExitStack() as stack:
        if folder.is_dir():
            with explain_write_errors(folder):
                stack.enter_context(exclusive_lock(folder))
                _tidy(folder)
        yield


def _tidy(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, in its .fa3 and in its subfolders, but not in links."""
    for place in [
        folder,
        *(entry for entry in folder.iterdir() if not entry.is_symlink() and entry.is_dir()),
    ]:
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


def original_link(path: Path, target: str | None, data: bytes) -> Entry:
    """The link that a file was before it was patched, if what that leads to still looks like its `data`; else these.

    A receipt may be forged, so what its link names is not opened.
    """
    try:
        found = os.stat(path.parent / target) if target else None
    except (OSError, ValueError):
        return data
    same = found is not None and stat.S_ISREG(found.st_mode) and found.st_size == len(data)
    return Link(target) if same else data
