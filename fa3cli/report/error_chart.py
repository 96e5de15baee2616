"""Computes the geometry of the chart of errors: 1 wide per layer and 100 high."""

from __future__ import annotations

from dataclasses import dataclass

from fa3cli.report.facts import Facts
from fa3cli.report.wording import labels, percent

__all__ = ["Bar", "ErrorChart", "error_chart"]


@dataclass(frozen=True)
class Bar:
    """The error of one layer alone."""

    height: float
    title: str


@dataclass(frozen=True)
class ErrorChart:
    """Bars of the layers' own errors, and the points of a line of accumulated errors; either may be empty."""

    bars: tuple[Bar, ...]
    line: tuple[tuple[float, float], ...]
    """x and y; y grows downwards."""
    top: float
    """The error that is drawn 100 high."""


def error_chart(facts: Facts) -> ErrorChart | None:
    """Return the chart, or None if no error is known."""
    own, accumulated = ([getattr(layer, field) for layer in facts.layers] for field in ("error", "accumulated_error"))
    known = [error for error in (*own, *accumulated) if error is not None]
    if not known:
        return None
    top = max(known) or 1.0
    names = labels(facts.layers)
    bars = [
        Bar(100 * (layer.error or 0) / top, f"{facts.part} {names[layer.name]}: {percent(layer.error)}")
        for layer in facts.layers
    ]
    line = [(index + 0.5, 100 - 100 * error / top) for index, error in enumerate(accumulated) if error is not None]
    has_own = any(error is not None for error in own)
    return ErrorChart(tuple(bars) if has_own else (), tuple(line), top)
