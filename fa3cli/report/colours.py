"""Computes a colour scale with equal visible steps, for light and for dark backgrounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["STEPS", "LogRange", "Shade", "contrast", "log_range", "shades"]

STEPS = 32


@dataclass(frozen=True)
class Shade:
    """The colour of one step of the scale, and the colour of text on it, as `#rrggbb`."""

    background: str
    ink: str


@dataclass(frozen=True)
class LogRange:
    """The range of values of a colour scale; both ends are above 0. All steps have the same ratio."""

    low: float
    high: float

    def step(self, value: float) -> int:
        """Return the step of a value, 0 to STEPS - 1."""
        position = math.log(value / self.low) / math.log(self.high / self.low)
        return min(STEPS - 1, max(0, int(position * STEPS)))

    @property
    def middle(self) -> float:
        """The geometric mean of both ends."""
        return math.sqrt(self.low) * math.sqrt(self.high)  # their product could overflow


def log_range(values: list[float]) -> LogRange | None:
    """Return the range of the values above 0, at least 1 to 2, so that small differences look small."""
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    low, high = min(positive), max(positive)
    if high / low < 2:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = middle / math.sqrt(2), middle * math.sqrt(2)
    return LogRange(low, high)


def shades(*, dark: bool) -> tuple[Shade, ...]:
    """Return the scale from low to high, in equal steps of OKLab lightness; low is close to the background."""
    first, last = (0.27, 0.93) if dark else (0.955, 0.29)
    scale = []
    for step in range(STEPS):
        lightness = first + (last - first) * step / (STEPS - 1)
        # Dark steps are blue, medium steps green, light steps yellow; the lightest are palest.
        hue = 268 - 168 * (lightness - 0.27) / 0.69
        chroma = 0.04 + 0.058 * math.sin(math.pi * min(1, max(0, (lightness - 0.1) / 0.9)))
        background = _hex(lightness, chroma, hue)
        scale.append(Shade(background, max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, background))))
    return tuple(scale)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21, as WCAG defines it."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[start : start + 2], 16) / 255) for start in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    """Return the linear light of an sRGB component, both 0 to 1."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _hex(lightness: float, chroma: float, hue: float) -> str:
    """Return the sRGB code of an OKLab colour (Ottosson 2020): lightness 0 to 1, chroma, and hue in degrees."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(value)):02x}" for value in linear)


def _gamma(value: float) -> float:
    """Return the sRGB component of linear light, both 0 to 1; colours outside sRGB are clipped."""
    value = min(1.0, max(0.0, value))
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
