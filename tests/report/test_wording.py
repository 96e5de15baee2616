"""Numbers as people read them."""

from __future__ import annotations

import pytest

from fa3cli.report.wording import change, count, fraction, percent, significant, size, value_text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (0.0272216796875, "0.0272"),
        (0.5, "0.500"),
        (128, "128"),
        (0.0, "0.00"),
        (1e-6, "1.00e-06"),
    ],
)
def test_three_digits(number: float | None, text: str) -> None:
    assert significant(number) == text


def test_the_rest() -> None:
    assert percent(0.0213) == "2.13\N{NO-BREAK SPACE}%" and percent(None) == "–"
    assert (
        change(29.471, 29.484) == "+0.04\N{NO-BREAK SPACE}%" and change(None, 1.0) == change(0.0, 1.0) == "–"
    )
    assert (count(1, "linear"), count(1200, "linear")) == ("1 linear", "1,200 linears")
    assert (fraction(3, 3), fraction(2, 3), fraction(0, 3)) == ("all 3", "2 of 3", "none")
    assert (size(2_500_000), size(141_000_000_000)) == ("2.50 MB", "141.00 GB")
    assert [value_text(each) for each in (True, None, [], ["*.a", "b"], 0)] == [
        "yes",
        "–",
        "–",
        "*.a, b",
        "0",
    ]
