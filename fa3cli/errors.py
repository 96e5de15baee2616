"""Every error a user can meet: one shallow tree, each class with its exit code and room for a hint."""

from __future__ import annotations

__all__ = [
    "ConflictError",
    "Fa3Error",
    "InvalidInputError",
    "MissingCapabilityError",
    "StoppedError",
    "UnsupportedError",
    "UsageError",
    "brief",
]


class Fa3Error(Exception):
    """Base of all errors fa3 raises on purpose; the message says what was found, `hint` what to do next."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Fa3Error):
    """The command line or a call asks for something that cannot be understood."""

    exit_code = 2


class UnsupportedError(Fa3Error):
    """What was asked for is understood but not supported, or ambiguous; nothing was written."""

    exit_code = 3


class ConflictError(Fa3Error):
    """A file changed since fa3 wrote it, or a folder holds something else."""

    exit_code = 4


class InvalidInputError(Fa3Error):
    """The model, the calibration data or an export is broken."""

    exit_code = 5


class MissingCapabilityError(Fa3Error):
    """This machine or environment lacks something the run needs: a device, a package, room on the disk."""

    exit_code = 6


class StoppedError(Fa3Error):
    """Stopped safely at the user's wish; the same command goes on from there."""

    exit_code = 75


def brief(error: BaseException) -> str:
    """Return an error of another library as one line of at most 300 characters, to quote in ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
