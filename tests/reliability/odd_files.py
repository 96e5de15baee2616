"""Replaces a file by something else: a pipe, a device, a link, a folder, a huge file."""

from __future__ import annotations

import os
import random
from pathlib import Path

__all__ = ["LINKED", "replace", "work_of"]

LINKED = "linked"
"""The folder beside a model that its links may point to, as in a cache of downloaded models."""

_KINDS = [
    "fifo",
    "zeros",
    "linked",
    "linked other",
    "loop",
    "folder",
    "missing",
    "unreadable",
    "sparse",
    "large",
    "dangling",
]

# Calibration lines and prompts may come from a pipe that the user names: fa3 waits for its writer, so tests would hang.
_MAY_BE_PIPES = (".jsonl", ".txt")


def replace(file: Path, rng: random.Random) -> None:
    """Replace a file by one of the kinds."""
    kind = rng.choice([kind for kind in _KINDS if kind != "fifo" or file.suffix not in _MAY_BE_PIPES])
    data = file.read_bytes()
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "zeros":
        file.symlink_to("/dev/zero")
    elif kind == "linked":
        file.symlink_to(_beside(file, data))
    elif kind == "linked other":
        file.symlink_to(_beside(file, b"not what it was\n"))
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "dangling":
        file.symlink_to("nowhere")
    elif kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes(data)
        if kind == "unreadable":  # root can still read it
            file.chmod(0)
        else:
            os.truncate(file, {"sparse": 1 << 40, "large": 300 << 20}[kind])


def _beside(file: Path, data: bytes) -> Path:
    """Write bytes outside the model's folder; return their path."""
    path = work_of(file) / LINKED / file.name
    path.write_bytes(data)
    return path


def work_of(file: Path) -> Path:
    """Return the folder that holds the whole input of a file."""
    return next(parent for parent in file.parents if (parent / LINKED).is_dir())
