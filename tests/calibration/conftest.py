"""Provides the inputs of a whole run: a random patched model and calibration lines."""

from pathlib import Path

import pytest

from tests.calibration.models import token_ids, write_lines, write_model


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "calib.jsonl", token_ids(9, 17, 5))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")
