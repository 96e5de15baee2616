"""Compiles and controls the library that makes system calls fail; it is preloaded, and armed in each child."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "COUNT",
    "FAIL",
    "FAIL_FROM_HERE",
    "KILL_AFTER",
    "KILL_BEFORE",
    "Call",
    "arm",
    "compile_shim",
    "disarm",
    "errors_of",
]

COUNT, FAIL, FAIL_FROM_HERE, KILL_BEFORE, KILL_AFTER = range(5)


@dataclass(frozen=True)
class Call:
    """A system call of a command: name, path below the watched folder, and whether it needs room on the disk."""

    name: str
    path: str
    needs_room: bool


def compile_shim(folder: Path) -> Path | None:
    """Return the compiled library, or None if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library, source = folder / "shim.so", Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def arm(folder: Path, mode: int, number: int = 0, error: int = 0, log: int = -1) -> None:
    """Start to count the calls below a folder and to apply `mode`; the library must be preloaded."""
    _library().fa3_arm(os.fsencode(folder), mode, ctypes.c_long(number), error, log)


def disarm() -> None:
    """Stop to affect calls."""
    _library().fa3_disarm()


def errors_of(call: Call) -> list[int]:
    """Return the errors with which the system may answer a call."""
    if call.name == "read":
        return [errno.EIO]
    if call.name.startswith("open"):
        return [errno.ENOSPC, errno.EACCES] if call.needs_room else [errno.EACCES, errno.EIO]
    if call.name in ("write", "pwrite64", "sendfile64", "fsync", "fdatasync"):
        return [errno.ENOSPC, errno.EIO]
    if call.name.startswith("ftruncate"):
        return [errno.EIO]
    return [errno.EACCES, errno.EIO]


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["LD_PRELOAD"])
