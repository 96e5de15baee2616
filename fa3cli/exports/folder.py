"""Writes an export in a folder beside the output, and renames it to the output when it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fa3cli.errors import ConflictError, InvalidInputError, MissingCapabilityError, UnsupportedError
from fa3cli.files.writing import sync

__all__ = ["RunFolder"]

_LOCK, _DISCARDED = "lock", "discarded"


class RunFolder:
    """The folder `<output>.journal` of a run; its subfolder `export` is renamed to `output` when the block succeeds.

    A lock excludes a second run. `journal` holds the entries of finished steps, `scratch` the temporary files. If the
    block fails, everything is removed, unless `keep` is set and a later run may not meet the same error.

    Raises ConflictError if `output` is not empty, is a mount point (no folder can be renamed to it), or is in use by
    another run. Raises MissingCapabilityError if the disk has fewer than `nbytes` free.
    """

    def __init__(self, output: Path, nbytes: int = 0) -> None:
        try:
            # Links are resolved: a rename works only within one disk, so the export must be written on the final one.
            self.output = output.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself
            raise ConflictError(
                f"{output}: a link without a target ({error})", hint="choose another --output"
            ) from error
        self.path = self.output.parent / f"{self.output.name}.journal"
        self.export, self.journal, self.scratch = (self.path / name for name in ("export", "visits", "scratch"))
        self.keep = False
        self._nbytes = nbytes

    def require_place(self) -> None:
        """Raise the errors of entering the block: the output is not empty, or its disk is too small."""
        try:
            if self._is_taken():
                raise ConflictError(f"{self.output}: already holds something else", hint="choose another --output")
            if self.output.is_mount():
                raise ConflictError(f"{self.output}: is a mount point", hint="choose a folder inside it")
            existing = next(folder for folder in self.path.parents if folder.exists())
            free = shutil.disk_usage(existing).free + self._leftover_bytes()
        except OSError as error:
            raise self._unwritable(error) from error
        if free < self._nbytes:
            raise MissingCapabilityError(
                f"{self.output}: the export needs {self._nbytes / 1e6:,.1f} MB, but {existing} has "
                f"{free / 1e6:,.1f} MB free",
                hint="free disk space, or choose an --output on another disk",
            )

    def __enter__(self) -> RunFolder:
        self.require_place()
        try:
            self._lock_folder()
        except OSError as error:
            with suppress(OSError):  # rmdir removes only an empty folder
                self.path.rmdir()
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        except OSError as failure:
            error = failure
        finally:
            # Every further run would end with these two errors, so nothing needs to be kept.
            if error is not None and (not self.keep or isinstance(error, (InvalidInputError, UnsupportedError))):
                self._remove()
            self._lock.close()  # last: another run may enter now
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise MissingCapabilityError(
                f"{self.path}: the export could not be written ({error})",
                hint=("free disk space" if full else "check that file and its disk")
                + ", then run the same command again"
                + ": the command resumes from here" * self.keep,
            ) from error

    def clear(self) -> None:
        """Remove all files of an earlier run, and make the folders of a new one."""
        self.keep = False
        discarded = self.path / _DISCARDED
        shutil.rmtree(discarded, ignore_errors=True)
        if self.export.is_dir():
            # One atomic step: a kill in the next steps leaves no part of an export that a later run would resume.
            self.export.rename(discarded)
        for folder in (discarded, self.journal, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.journal, self.scratch, self.export):
            folder.mkdir()

    def sweep(self) -> None:
        """Remove the run's folder beside a complete output, if possible: such a run was killed in its last step."""
        with suppress(OSError):
            if (self.path / _LOCK).is_file() or _is_empty(self.path):
                self._lock_folder()
                self._remove()
                self._lock.close()

    def _is_taken(self) -> bool:
        return self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir()))

    def _publish(self) -> None:
        for path in sorted(self.export.rglob("*"), reverse=True):  # files before their folder
            path.chmod(0o750 if path.is_dir() else 0o640)
            sync(path)  # before the rename: a crash must not leave a complete folder of empty files
        self.export.chmod(0o750)
        sync(self.export)
        try:
            if self.output.exists():
                self.output.rmdir()
            self.export.rename(self.output)
        except OSError as error:
            if not self._is_taken():
                raise
            with suppress(OSError):
                (self.path / _LOCK).unlink()  # without a lock, no later run resumes from or removes the folder
            raise ConflictError(
                f"{self.output}: was created by another program during the run ({error.strerror})",
                hint=f"the export is complete in {self.export}: move it to another place",
            ) from error
        sync(self.output.parent)  # or a crash of the system could undo the rename
        self._remove()

    def _remove(self) -> None:
        """Remove the run's folder, its lock last: only a folder with a lock is recognised as a run's."""
        for folder in (self.path / _DISCARDED, self.export, self.journal, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _leftover_bytes(self) -> int:
        """Return the bytes of a stopped run's files, which this run resumes from or replaces."""
        if not (self.path / _LOCK).exists():
            return 0
        try:
            return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        except FileNotFoundError:  # another run is active; locking will fail
            return 0

    def _unwritable(self, error: OSError) -> MissingCapabilityError:
        return MissingCapabilityError(
            f"{self.path.parent}: cannot be written ({error.strerror})", hint="choose another --output"
        )

    def _lock_folder(self) -> None:
        """Make the folder, or reuse the folder of a stopped run, and lock it; the lock ends with the process."""
        lock = self.path / _LOCK
        if os.path.lexists(self.path) and not _is_regular_file(lock) and not _is_empty(self.path):
            raise ConflictError(f"{self.path}: not the folder of a stopped run", hint="choose another --output")
        self.path.mkdir(parents=True, exist_ok=True)
        # Not inherited by child processes: a child would hold the lock after this process ends.
        self._lock = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640), "r+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise ConflictError(
                f"{self.path}: another run is writing it", hint="wait for it, or choose another --output"
            ) from None


def _is_regular_file(path: Path) -> bool:
    """Tell whether a regular file exists: opening a pipe would block, a link may lead to a user's file."""
    return path.is_file() and not path.is_symlink()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
