"""Writes whole files and whole folders at once and durably; what a killed process left is removed by the next one."""

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

__all__ = ["alone_in", "is_temporary", "new_folder", "sweep", "sync", "write_file", "write_link"]

_TEMPORARY = re.compile(r"\.fa3-[0-9a-f]{16}\.tmp")
# Folders that this process has a lock of for itself, by device and inode: its own writers need none.
_ALONE: set[tuple[int, int]] = set()
_PATIENCE = 10.0


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` (the link itself if it is one) by a file of `data`, in the mode of the file that was there.

    After a crash, of the machine too, `path` is what it was or what it should be. Raises OSError, which names `path`.
    """
    with _replacing(path) as temporary:
        _write(temporary, data, mode=path.stat().st_mode & 0o777 if path.exists() else None)


def write_link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link, at once and durably; raises OSError, which names `path`."""
    with _replacing(path) as temporary:
        os.symlink(target, temporary)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path` (so far missing or empty) when the block ends well, else is removed."""
    with _writing(path.parent):
        temporary = _temporary(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            for folder, _, _ in os.walk(temporary):
                sync(Path(folder))
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, unless another one is writing there now."""
    with _writing(folder):
        pass


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder during the block, for changes of several files.

    Raises OSError if one is writing there for ten seconds.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino)
    try:
        if _lock(descriptor, folder):
            _remove_leftovers(folder)
        _ALONE.add(key)
        yield
    finally:
        _ALONE.discard(key)
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    """Wait for the lock of a folder; False where the file system, one of a network, has no such locks."""
    until = time.monotonic() + _PATIENCE
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


def is_temporary(name: str) -> bool:
    """Whether a name is one that files and folders have here while they are written."""
    return _TEMPORARY.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Remove leftovers if nobody writes in the folder, then keep others from removing what is written in the block.

    Writers share a lock of the folder, which the system frees when a process dies. Who gets it alone knows that
    temporary files are leftovers.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) in _ALONE:
        os.close(descriptor)
        yield
        return
    try:
        with suppress(OSError):  # others write there now, or a network file system without such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_leftovers(folder)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name, whose file becomes `path` when the block ends well."""
    try:
        with _writing(path.parent):
            temporary = _temporary(path.parent)
            try:
                yield temporary
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):  # the first error is the one to tell; the next writer sweeps
                    temporary.unlink(missing_ok=True)
                raise
            sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write(file: Path, data: bytes, mode: int | None) -> None:
    with open(file, "xb") as stream:
        stream.write(data)
        stream.flush()
        if mode is not None:
            os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())


def _remove_leftovers(folder: Path) -> None:
    for entry in os.scandir(folder):
        if not is_temporary(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def _temporary(folder: Path) -> Path:
    return folder / f".fa3-{os.urandom(8).hex()}.tmp"
