from __future__ import annotations

import pytest

from fa3cli.export.checks import CHECKS
from fa3cli.export.checks.registry import check


def test_every_check_has_a_name_and_a_one_line_reason() -> None:
    assert len(CHECKS) > 20
    for name, entry in CHECKS.items():
        assert name == entry.name and entry.reason and "\n" not in entry.reason


def test_a_check_may_only_heed_earlier_ones() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        check("late", "a reason", needs=("nowhere",))


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="twice"):
        check("config", "a reason")
