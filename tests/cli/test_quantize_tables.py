from __future__ import annotations

import pytest

from fa3cli.cli.quantize_tables import _duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.02, "1 s"),
        (59.6, "60 s"),
        (140, "2 min"),
        (5900, "98 min"),
        (12060, "3 h 20 min"),
        (86000, "23 h 50 min"),
    ],
)
def test_durations_are_as_exact_as_an_estimate(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
