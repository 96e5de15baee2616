"""The older diffusers versions that tiny models are run under, each in an environment of its own (`make versions`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from tests.patching.matrix.environments import ROOT

__all__ = ["VERSIONS", "python"]

VERSIONS = ("0.31.0", "0.33.1", "0.35.2")


def python(version: str | None) -> Path | None:
    """The interpreter that has a diffusers version, this one for no version; None where there is none."""
    if version is None:
        return Path(sys.executable) if importlib.util.find_spec("diffusers") else None
    path = ROOT / ".venvs" / f"diffusers-{version}" / "bin" / "python"
    return path if path.exists() else None
