"""Records everything below a folder, and tells how two records differ."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["State", "difference", "state_of"]

State = dict[str, object]
"""Every path below a folder: the bytes of a file, the target of a link, None for a folder or anything else."""


def state_of(folder: Path) -> State:
    """Return the state of everything below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def difference(found: State, expected: State) -> str | None:
    """Return how two states differ, in words; None if they are equal."""
    differing = {
        "left": sorted(found.keys() - expected.keys()),
        "missing": sorted(expected.keys() - found.keys()),
        "other": sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name]),
    }
    return ", ".join(f"{kind}: {' '.join(names[:4])}" for kind, names in differing.items() if names) or None
