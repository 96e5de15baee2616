"""Defines the errors that users see: one base class, and an exit code per class."""

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
    """Base of all errors that fa3 raises on purpose; the message says what was found, `hint` what to do next."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(Fa3Error):
    """The command line or a call is invalid."""

    exit_code = 2


class UnsupportedError(Fa3Error):
    """The request is valid but not supported, or ambiguous; nothing was written."""

    exit_code = 3


class ConflictError(Fa3Error):
    """A file was changed after fa3 wrote it, or a folder holds other files than expected."""

    exit_code = 4


class InvalidInputError(Fa3Error):
    """The model, the calibration data or an export is invalid."""

    exit_code = 5


class MissingCapabilityError(Fa3Error):
    """This machine or environment lacks something that the run needs: a device, a package, room on the disk."""

    exit_code = 6


class StoppedError(Fa3Error):
    """The user stopped the run; the same command resumes it."""

    exit_code = 75


def brief(error: BaseException) -> str:
    """Return another library's error as one line of at most 300 characters, for use in a message of fa3."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
