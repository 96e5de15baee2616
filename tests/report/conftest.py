"""Provides an export to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exports.exports import Export
from tests.report.exports import write_export


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return write_export(tmp_path / "model-w8a8-fa3")
