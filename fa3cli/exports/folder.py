"""A run's folder: the export is made beside its final place, and renamed to it when everything is there."""

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
    """Where an export grows, `<output>.journal` beside its place: `export` appears at `output` when the block ends well.

    A link is followed, so that the export is made on the disk it will lie on; a lock keeps a second run out. `journal`
    is for records of what is done: while `keep` is set they stay with the rest when the block ends in an error that
    another try can get past. `scratch` is for what the run alone needs.

    Raises ConflictError where `output` holds something already, is a mount point (nothing can be renamed to
    it) or is being written by another run, MissingCapabilityError where the disk has no room for `nbytes`.
    """

    def __init__(self, output: Path, nbytes: int = 0) -> None:
        try:
            self.output = output.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself
            raise ConflictError(
                f"{output}: leads nowhere ({error})", hint="choose another --output"
            ) from error
        self.path = self.output.parent / f"{self.output.name}.journal"
        self.export, self.journal, self.scratch = (
            self.path / name for name in ("export", "visits", "scratch")
        )
        self.keep = False
        self._nbytes = nbytes

    def require_place(self) -> None:
        """Raise what entering would raise: the output is taken, or its disk too small."""
        try:
            if self._is_taken():
                raise ConflictError(
                    f"{self.output}: already holds something else",
                    hint="choose another --output",
                )
            if self.output.is_mount():
                raise ConflictError(f"{self.output}: a mount point", hint="choose a folder inside it")
            there = next(folder for folder in self.path.parents if folder.exists())
            free = shutil.disk_usage(there).free + self._leftover()
        except OSError as error:
            raise self._unwritable(error) from error
        if free < self._nbytes:
            raise MissingCapabilityError(
                f"{self.output}: the export needs {self._nbytes / 1e6:,.1f} MB, but {there} has "
                f"{free / 1e6:,.1f} MB free",
                hint="make room, or choose an --output on another disk",
            )

    def __enter__(self) -> RunFolder:
        self.require_place()
        try:
            self._claim()
        except OSError as error:
            with suppress(OSError):  # that was made for nothing, if it is empty
                self.path.rmdir()
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        except OSError as full:
            error = full
        finally:
            if error is not None and (
                not self.keep or isinstance(error, (InvalidInputError, UnsupportedError))
            ):
                self._remove()
            self._lock.close()
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise MissingCapabilityError(
                f"{self.path}: the export could not be written ({error})",
                hint=("make room" if full else "see to that file and its disk")
                + ", then run the same command again"
                + ": it goes on from here" * self.keep,
            ) from error

    def clear(self) -> None:
        """Remove what an earlier run left and begin anew; without `export` the rest is worth nothing, whenever it ends."""
        self.keep = False
        discarded = self.path / _DISCARDED
        shutil.rmtree(discarded, ignore_errors=True)
        if self.export.is_dir():
            self.export.rename(discarded)
        for folder in (discarded, self.journal, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.journal, self.scratch, self.export):
            folder.mkdir()

    def sweep(self) -> None:
        """Remove what is left beside an output that is complete, if it can be: a run was killed at its last step."""
        with suppress(OSError):
            if (self.path / _LOCK).is_file() or _is_empty(self.path):
                self._claim()
                self._remove()
                self._lock.close()

    def _is_taken(self) -> bool:
        return self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir()))

    def _publish(self) -> None:
        for path in sorted(self.export.rglob("*"), reverse=True):  # files before their folder
            path.chmod(0o750 if path.is_dir() else 0o640)
            sync(path)
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
                (self.path / _LOCK).unlink()  # so that no later run takes it for its own
            raise ConflictError(
                f"{self.output}: something came there during the run ({error.strerror})",
                hint=f"the export is complete in {self.export}: move it where you want it",
            ) from error
        sync(self.output.parent)
        self._remove()

    def _remove(self) -> None:
        """Remove the run's folder, its lock last: until then it is known for what it is."""
        for folder in (self.path / _DISCARDED, self.export, self.journal, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _leftover(self) -> int:
        """Bytes of what a stopped run left, which this one continues or replaces."""
        if not (self.path / _LOCK).exists():
            return 0
        try:
            return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        except FileNotFoundError:  # a run that is at work, as the lock will tell
            return 0

    def _unwritable(self, error: OSError) -> MissingCapabilityError:
        return MissingCapabilityError(
            f"{self.path.parent}: cannot be written ({error.strerror})", hint="choose another --output"
        )

    def _claim(self) -> None:
        """Make the folder, or take over the one a stopped run left; its lock dies with the process."""
        lock = self.path / _LOCK
        if os.path.lexists(self.path) and not _is_plain(lock) and not _is_empty(self.path):
            raise ConflictError(
                f"{self.path}: not left by a run that was stopped", hint="choose another --output"
            )
        self.path.mkdir(parents=True, exist_ok=True)
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


def _is_plain(path: Path) -> bool:
    """Tell whether there is a regular file: opening a pipe would block, a link may lead to what is not ours."""
    return path.is_file() and not path.is_symlink()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
