"""Writes files and folders atomically and durably; the next writer removes leftovers of a killed process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fa3cli.files.locking import shared_lock, temporary_in

__all__ = ["new_folder", "sync", "write_file", "write_link"]


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` (the link itself if it is one) by a file with `data`, in the mode of the old file.

    After a crash of the process or the machine, `path` has either the old or the new content. Raises OSError, which
    names `path`.
    """
    with _replacing(path) as temporary:
        _write(temporary, data, mode=path.stat().st_mode & 0o777 if path.exists() else None)


def write_link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link, atomically and durably; raises OSError, which names `path`."""
    with _replacing(path) as temporary:
        os.symlink(target, temporary)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes `path` (missing or empty) if the block succeeds, and is removed otherwise."""
    with shared_lock(path.parent):
        temporary = temporary_in(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            # Synced before the folder gets its name: after a crash, the name must not lead to a folder without files.
            for folder, _, _ in os.walk(temporary):
                sync(Path(folder))
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file there becomes `path` if the block succeeds."""
    try:
        with shared_lock(path.parent):
            temporary = temporary_in(path.parent)
            try:
                yield temporary
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):  # report the first error; the next writer removes the file
                    temporary.unlink(missing_ok=True)
                raise
            sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write(file: Path, data: bytes, mode: int | None) -> None:
    # x: fails if the file exists, and never writes through a link.
    with open(file, "xb") as stream:
        stream.write(data)
        stream.flush()
        if mode is not None:
            os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
