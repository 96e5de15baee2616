"""stdout and stderr that take every write: what nobody reads or no disk holds is dropped and never ends a run."""

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
    """The raw stdout and stderr of this process, where they have descriptors."""

    def __init__(self) -> None:
        self.stdout: _Raw | None = None

    @property
    def problem(self) -> str | None:
        """Why not everything reached stdout; a reader that went away is no problem."""
        failed = self.stdout and self.stdout.failed
        return failed.strerror if failed and failed.errno != errno.EPIPE else None


class _Raw(FileIO):
    """A descriptor whose first error is kept; from then on, what is written is dropped."""

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
                if written is None:  # a pipe that does not block, and is full for now
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        return size


@contextmanager
def open_streams() -> Iterator[Streams]:
    """Replace sys.stdout and sys.stderr in the block; at its end everything is written, or known not to be."""
    _fill_closed()
    before, streams = (sys.stdout, sys.stderr), Streams()
    # Names come from files, bars from us: neither need be in a terminal's encoding.
    sys.stdout, streams.stdout = _safe(sys.stdout, errors="replace")
    sys.stderr, _ = _safe(sys.stderr, errors="backslashreplace")
    try:
        yield streams
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # another one, put there or closed since
                stream.flush()
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | None, errors: str) -> tuple[TextIO, _Raw | None]:
    """Return a stream to the same descriptor, or the stream itself where it has none."""
    if stream is None:  # closed when the process began
        return open(os.devnull, "w"), None
    try:
        stream.flush()
        raw = _Raw(stream.fileno(), "w", closefd=False)
    except (OSError, UnsupportedOperation):
        return stream, None
    # No BufferedWriter between the two: the handler of a signal may print while something is being written.
    wrapped = TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering or stream.write_through,  # the latter with python -u
    )
    return wrapped, raw


def _fill_closed() -> None:
    """Open /dev/null in the place of each closed standard descriptor, so that no file of a run gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
