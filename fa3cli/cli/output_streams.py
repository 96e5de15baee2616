"""Replaces stdout and stderr so that a failed write (closed pipe, full disk) drops output but never ends a run."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO, TextIOWrapper, UnsupportedOperation
from typing import Any, TextIO

__all__ = ["Streams", "open_streams"]


class Streams:
    """The raw stdout of this process, if it has a descriptor."""

    def __init__(self) -> None:
        self.stdout: _Raw | None = None

    @property
    def problem(self) -> str | None:
        """Why stdout is incomplete; None if it is complete or its reader closed the pipe."""
        failed = self.stdout and self.stdout.failed
        return failed.strerror if failed and failed.errno != errno.EPIPE else None


class _Raw(FileIO):
    """A descriptor that keeps its first error and drops everything written afterwards."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while self.failed is None and rest:
            try:
                written = super().write(rest)
            except OSError as error:
                self.failed = error
            else:
                if written is None:  # a full non-blocking pipe: wait until it takes more
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        return size


@contextmanager
def open_streams() -> Iterator[Streams]:
    """Replace sys.stdout and sys.stderr in the block; at its end everything is written or an error is known."""
    _fill_closed()
    before, streams = (sys.stdout, sys.stderr), Streams()
    # The terminal may be unable to encode names from files, or our bars.
    sys.stdout, streams.stdout = _safe(sys.stdout, errors="replace")
    sys.stderr, _ = _safe(sys.stderr, errors="backslashreplace")
    try:
        yield streams
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # replaced or closed in the meantime
                stream.flush()
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | None, errors: str) -> tuple[TextIO, _Raw | None]:
    """Return a stream to the same descriptor, or the stream itself if it has none."""
    if stream is None:  # was closed when the process began
        return open(os.devnull, "w"), None
    try:
        stream.flush()
        raw = _Raw(stream.fileno(), "w", closefd=False)
    except (OSError, UnsupportedOperation):
        return stream, None
    # No BufferedWriter in between: it is not reentrant, and a signal handler may print during a write.
    wrapped = TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors=errors,
        # write_through: python -u
        line_buffering=bool(stream.line_buffering or getattr(stream, "write_through", False)),
    )
    return wrapped, raw


def _fill_closed() -> None:
    """Open /dev/null for every closed standard descriptor, so that no other file gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
