"""Provides a valid export for tests to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exports.exports import GOLDEN, Export, build_export, copy_golden


@pytest.fixture(params=["built", "golden"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Export:
    """Return a valid float32 export with FA3 in every layer: one of fa3, one of msModelSlim."""
    if request.param == "built":
        return build_export(tmp_path)
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not here")
    return copy_golden("llama_float32_act1_amp0_L0", "llama_float32", tmp_path)
