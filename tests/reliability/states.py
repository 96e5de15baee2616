"""What lies below a folder, and how that differs from what should."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["State", "difference", "state_of"]

State = dict[str, object]
"""Every name below a folder: a file's bytes, where a link leads, None for a folder or anything else."""


def state_of(folder: Path) -> State:
    """Return what lies below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def difference(found: State, wanted: State) -> str | None:
    """Say how two states differ."""
    names = {
        "left": sorted(found.keys() - wanted.keys()),
        "missing": sorted(wanted.keys() - found.keys()),
        "other": sorted(name for name in found.keys() & wanted.keys() if found[name] != wanted[name]),
    }
    return ", ".join(f"{what}: {' '.join(which[:4])}" for what, which in names.items() if which) or None
