"""Tests that the steps of the colour scale are even, and that text is legible on all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.report.colours import STEPS, contrast, log_range, shades

SCALES = st.floats(min_value=1e-30, max_value=1e30)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_on_every_shade(dark: bool) -> None:
    scale = shades(dark=dark)
    assert len(scale) == STEPS
    assert all(contrast(shade.ink, shade.background) >= 4.5 for shade in scale)


@pytest.mark.parametrize("dark", [False, True])
def test_lightness_steps_are_even_and_monotonic(dark: bool) -> None:
    lightness = [_lightness(shade.background) for shade in shades(dark=dark)]
    steps = [after - before for before, after in pairwise(lightness)]
    mean = sum(steps) / len(steps)
    assert mean > 0 if dark else mean < 0
    assert all(0.5 < step / mean < 1.5 for step in steps)


def test_contrast_follows_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@given(st.lists(SCALES, min_size=1))
def test_every_value_has_its_step(values: list[float]) -> None:
    span = log_range(values)
    steps = [span.step(value) for value in sorted(values)]
    assert steps == sorted(steps) and 0 <= steps[0] <= steps[-1] < STEPS
    assert span.high / span.low > 1.99 and span.low <= span.middle <= span.high
    if max(values) >= 2 * min(values):
        assert (steps[0], steps[-1]) == (0, STEPS - 1)


def test_values_without_a_logarithm_have_no_range() -> None:
    assert log_range([]) is None and log_range([0.0, -1.0]) is None


def _lightness(colour: str) -> float:
    """Return CIE L*, a measure of lightness that the scale is not built with."""
    linear = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (((v + 0.055) / 1.055) ** 2.4 if v > 0.04045 else v / 12.92 for v in linear)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 116 * light ** (1 / 3) - 16 if light > 0.008856 else 903.3 * light
