"""Locks folders: writers share a folder's lock; with the exclusive lock, leftovers of killed processes are removed.

The system frees a lock when its process dies. On (network) file systems without locks, files are written without one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["exclusive_lock", "is_temporary", "shared_lock", "sweep", "temporary_in"]

_TEMPORARY = re.compile(r"\.fa3-[0-9a-f]{16}\.tmp")
# Folders that this process has locked exclusively, by device and inode: its own writers skip the shared lock there.
_EXCLUSIVE: set[tuple[int, int]] = set()
_LOCK_TIMEOUT = 10.0


def temporary_in(folder: Path) -> Path:
    """Return a new temporary path in a folder."""
    return folder / f".fa3-{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Tell whether a name is the temporary name of a file or folder that is being written."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def shared_lock(folder: Path) -> Iterator[None]:
    """Remove leftovers if no process writes in the folder; then protect the files of the block from removal."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _folder_id(descriptor) not in _EXCLUSIVE:
            with suppress(OSError):  # another process is writing there
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_leftovers(folder)
            with suppress(OSError):
                # Replaces the exclusive lock, if this process has got it: other writers may enter now.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove half-written files of killed processes in a folder, unless a process is writing there now."""
    with shared_lock(folder):
        pass


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Prevent other processes from writing in a folder during the block, which changes several files.

    Raises OSError if another process does not stop writing there for ten seconds.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    key = _folder_id(descriptor)
    try:
        if _lock(descriptor, folder):
            _remove_leftovers(folder)
        _EXCLUSIVE.add(key)
        yield
    finally:
        _EXCLUSIVE.discard(key)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    """Wait for the lock of a folder; False where the file system has no locks."""
    until = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(errno.EBUSY, "another process writes there", str(folder)) from None
        except OSError:
            return False
        time.sleep(0.02)


def _folder_id(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _remove_leftovers(folder: Path) -> None:
    for entry in os.scandir(folder):
        if not is_temporary(entry.name):
            continue
        # follow_symlinks=False: a link is removed, never the folder that it leads to.
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)
