"""The lines of a text file that a user names, which may be large, or a pipe."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from fa3cli.errors import InvalidInputError

__all__ = ["numbered_lines"]


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's lines with their numbers; white space at its end is none.

    Raises InvalidInputError for a file that can't be read, and for a line that is not UTF-8.
    """
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file}: cannot be read ({error})") from error
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).rstrip().splitlines(), start=1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file}, line {number}: cannot be read as UTF-8 ({error})") from error
