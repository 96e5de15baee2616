"""Tests how numbers and values are formatted."""

from __future__ import annotations

import pytest

from fa3cli.report.facts import ImageAccuracy, Origin
from fa3cli.report.wording import (
    calibrated_on,
    change,
    count,
    decibels,
    fraction,
    image_rows,
    int8_linears,
    percent,
    significant,
    size,
    value_text,
)


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
def test_numbers_have_three_significant_digits(number: float | None, text: str) -> None:
    assert significant(number) == text


def test_other_values_are_formatted() -> None:
    assert percent(0.0213) == "2.13\N{NO-BREAK SPACE}%" and percent(None) == "–"
    assert change(29.471, 29.484) == "+0.04\N{NO-BREAK SPACE}%" and change(None, 1.0) == change(0.0, 1.0) == "–"
    assert value_text([["*.mlp.*", "w8a8-mix"], ("lm_head", "w8a8")]) == "*.mlp.*=w8a8-mix, lm_head=w8a8"
    assert (int8_linears(28, {}), int8_linears(1028, {"W8A8": 1028})) == ("28", "1,028 W8A8")
    assert int8_linears(28, {"W8A8": 4, "W8A8_DYNAMIC": 24}) == "28: 4 W8A8, 24 W8A8_DYNAMIC"
    assert value_text({"steps": 4, "frames": None, "fa": True}) == "steps 4, fa yes"
    assert (count(1, "linear"), count(1200, "linear")) == ("1 linear", "1,200 linears")
    assert (fraction(3, 3), fraction(2, 3), fraction(0, 3)) == ("all 3", "2 of 3", "none")
    assert (size(2_500_000), size(141_000_000_000)) == ("2.50 MB", "141.00 GB")
    assert [value_text(value) for value in (True, None, [], ["*.a", "b"], 0)] == [
        "yes",
        "–",
        "–",
        "*.a, b",
        "0",
    ]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (345, "12 samples with 345 tokens"),
        (0, "12 samples"),
        (None, "12 samples with an unknown number of tokens"),
    ],
)
def test_samples_are_described_with_or_without_tokens(tokens: int | None, text: str) -> None:
    assert calibrated_on(Origin(None, {}, {}, {}, {}, 12, tokens)) == text


def test_identical_images_are_named_the_same() -> None:
    assert image_rows(None) == []
    rows = dict(image_rows(ImageAccuracy(3, (40.0, None, 30.0), 35.0, 0.25)))
    assert rows["lowest PSNR"] == decibels(30.0) == "30.0\N{NO-BREAK SPACE}dB"
    assert dict(image_rows(ImageAccuracy(1, (None,), None, 0.0)))["lowest PSNR"] == "the same"
