"""Reads untrusted files: regular files only, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["LARGE", "SMALL", "is_file_name", "read_bytes", "require_regular"]

# A parsed hostile file can need about 50 times its size in memory.
SMALL = 8 << 20
"""Limit in bytes for files that people and fa3 write: configurations, receipts, Python source, recipes."""
LARGE = 128 << 20
"""Limit in bytes for files that list every tensor of a model: indexes, descriptions, reports."""


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """Return the bytes of a regular file, or of the regular file that a link leads to.

    Raises OSError, whose strerror says why, for anything else: a pipe would block, a device may never end, and a file
    of more than `limit` bytes would fill the memory.
    """
    try:
        _require_regular(path, os.stat(path), limit)
        # O_NONBLOCK: the file may have been replaced by a pipe since os.stat, and opening a pipe would block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _require_regular(path, os.fstat(file.fileno()), limit)
            data = file.read(limit + 1)
    except ValueError:
        raise _invalid_name_error(path) from None
    if len(data) > limit:
        raise _too_large_error(path, limit)
    return data


def require_regular(path: Path, limit: int | None = None) -> None:
    """Raise OSError, whose strerror says why, where there is no regular file of at most `limit` bytes.

    Opening something else may never end.
    """
    try:
        _require_regular(path, os.stat(path), limit)
    except ValueError:
        raise _invalid_name_error(path) from None


def is_file_name(name: object) -> bool:
    """Tell whether a value from a document is a plain file name, which does not lead to another folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(char in name for char in "/\\\0")


def _require_regular(path: Path, found: os.stat_result, limit: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if limit is not None and found.st_size > limit:
        raise _too_large_error(path, limit)


def _too_large_error(path: Path, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit >> 20} MiB, the limit for such a file", str(path))


def _invalid_name_error(path: Path) -> OSError:
    """Return the error for a path with a zero byte or a lone surrogate."""
    return OSError(errno.EINVAL, "not a file name", str(path))
