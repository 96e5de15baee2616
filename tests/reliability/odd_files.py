"""Puts something else in the place of a file: a pipe, a device, a link, a folder, a file that never ends."""

from __future__ import annotations

import os
import random
from pathlib import Path

__all__ = ["LINKED", "replace", "work_of"]

LINKED = "linked"
"""The folder beside a model that a link may lead to, as in a cache of downloaded models."""

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

# Calibration lines and prompts: the user names these files, and fa3 waits for who writes into a pipe.
_MAY_BE_PIPES = (".jsonl", ".txt")


def replace(file: Path, rng: random.Random) -> None:
    """Replace a file by one of the odd kinds."""
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
        if kind == "unreadable":  # to others than root
            file.chmod(0)
        else:
            os.truncate(file, {"sparse": 1 << 40, "large": 300 << 20}[kind])


def _beside(file: Path, data: bytes) -> Path:
    """Write bytes outside the model's folder; return their path."""
    there = work_of(file) / LINKED / file.name
    there.write_bytes(data)
    return there


def work_of(file: Path) -> Path:
    """Return the folder that holds all of an input."""
    return next(parent for parent in file.parents if (parent / LINKED).is_dir())
