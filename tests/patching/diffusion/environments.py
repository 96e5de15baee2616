"""Finds the environments of older diffusers versions, under which tiny models are run (`make versions`)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.patching.matrix.environments import ROOT

__all__ = ["VERSIONS", "cases", "python"]

VERSIONS = ("0.31.0", "0.33.1", "0.35.2")


def python(version: str | None) -> Path | None:
    """The interpreter with a diffusers version (None: this interpreter); None if there is no such environment."""
    if version is None:
        return Path(sys.executable) if importlib.util.find_spec("diffusers") else None
    path = ROOT / ".venvs" / f"diffusers-{version}" / "bin" / "python"
    return path if path.exists() else None


def cases(names: Iterable[str], since: Mapping[str, str], sample: Collection[tuple[str | None, str]]) -> list[Any]:
    """Parameters: each name under the installed diffusers (None) and under the older versions that have it.

    The sample is in the default suite and in `versions`; the rest is in `versions` for the installed diffusers, and in
    `sweeps` for older versions.
    """
    marks = {None: ((), pytest.mark.versions)}
    marks |= dict.fromkeys(VERSIONS, (pytest.mark.versions, pytest.mark.sweeps))
    return [
        pytest.param(version, name, marks=marks[version][(version, name) not in sample])
        for version in marks
        for name in names
        if version is None or version >= since.get(name, VERSIONS[0])
    ]
