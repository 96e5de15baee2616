"""Tests which folders can be opened as exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa3cli.errors import InvalidInputError
from fa3cli.report.stored import open_stored


def test_a_calibration_is_not_an_export(tmp_path: Path) -> None:
    (tmp_path / "fa3_parameters.safetensors").touch()
    (tmp_path / "fa3_report.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="holds a calibration") as raised:
        open_stored(tmp_path)
    assert "fa3 export" in raised.value.hint
