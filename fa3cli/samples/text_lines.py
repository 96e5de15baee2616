"""Reads the lines of a user's text file, which may be large, or a pipe."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from fa3cli.errors import InvalidInputError
from fa3cli.files.reading import LARGE

__all__ = ["numbered_lines"]


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's lines with their numbers, one in memory at a time; blank lines at the end are omitted.

    Raises InvalidInputError for a file that cannot be read, a line that is not UTF-8, and a line that is too long.
    """
    number, blank = 0, 0
    try:
        with file.open("rb") as stream:
            # A bounded read: a file may be one endless line.
            while line := stream.readline(LARGE + 1):
                number += 1
                if len(line) > LARGE:
                    raise InvalidInputError(f"{file}, line {number}: longer than {LARGE >> 20} MiB")
                if number == 1:
                    # Some editors write a byte order mark, which is not part of the first record.
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():
                    blank += 1
                    continue
                # Blank lines count only now that another line follows them.
                yield from ((number - back, "") for back in range(blank, 0, -1))
                blank = 0
                yield number, _text(line, f"{file}, line {number}").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"{file}: cannot be read ({reason})", hint="give a file of text that can be read"
        ) from error


def _text(line: bytes, origin: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{origin}: cannot be read as UTF-8 ({error})") from error
