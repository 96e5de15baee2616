"""Arranges the scales of q, k and v as heat maps: one row per layer, one column per head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fa3cli.report.colours import LogRange, log_range
from fa3cli.report.facts import Facts, HeadScales
from fa3cli.report.names import number_ranges, relative_name
from fa3cli.report.wording import labels, significant

__all__ = ["Cell", "HeatMap", "Row", "column_groups", "heat_maps"]

_WRITTEN = 8  # maps of at most as many columns show values in the cells
_SINGLE = 16  # maps of at most as many columns have a heading per column
_GROUP = 8  # columns per heading in wider maps


@dataclass(frozen=True)
class Cell:
    """One value, such as the scale of a head; its `step` of the colour scale is None if it has no logarithm."""

    step: int | None
    title: str
    text: str


@dataclass(frozen=True)
class Row:
    """One attention module; without cells if it has no scales."""

    label: str
    cells: tuple[Cell, ...]
    span: str


@dataclass(frozen=True)
class HeatMap:
    """All scales of q, k or v, or their values over the timesteps."""

    role: str
    part: str
    """The unit of a row: layer or block."""
    column: str
    """The unit of a column: head or timestep."""
    columns: int
    groups: tuple[tuple[str, int], ...]
    """Heading and width of each group of columns."""
    rows: tuple[Row, ...]
    span: str
    """Heading of the rows' `span`."""
    range: LogRange | None
    extremes: str

    @property
    def written(self) -> bool:
        """Whether the cells have room for their text."""
        return self.columns <= _WRITTEN


def heat_maps(facts: Facts) -> list[HeatMap]:
    """Return one map for each of q, k and v that has scales."""
    maps = [_heat_map(facts, role) for role in "qkv"]
    return [heat_map for heat_map in maps if heat_map is not None]


def _heat_map(facts: Facts, role: str) -> HeatMap | None:
    found = [scales for scales in facts.scales if scales.role == role]
    if not found:
        return None
    heads = max(len(scales.values) for scales in found)
    span = log_range([value for scales in found for value in scales.values if value is not None])
    by_layer: dict[str, list[HeadScales]] = {layer.name: [] for layer in facts.layers}
    for scales in found:
        by_layer.setdefault(scales.layer, []).append(scales)
    names = labels(facts.layers)
    float_layers = {layer.name for layer in facts.layers if layer.fa is False}
    rows = []
    for layer, modules in by_layer.items():
        label = names.get(layer, layer)
        for scales in modules:
            row_label = f"{label} {relative_name(scales.module, layer)}" if len(modules) > 1 else label
            rows.append(_row(f"{facts.part} {row_label}", row_label, scales, span))
        if not modules:
            rows.append(Row(label, (), "float" if layer in float_layers else "–"))
    return HeatMap(
        role=role,
        part=facts.part,
        column="head",
        columns=heads,
        groups=column_groups(heads, number_ranges),
        rows=tuple(rows),
        span="range",
        range=span,
        extremes=_extremes(found, names, facts.part),
    )


def column_groups(columns: int, heading: Callable[[Sequence[int]], str]) -> tuple[tuple[str, int], ...]:
    """Return heading and width of each group of columns; a group has one column if there are few columns."""
    width = 1 if columns <= _SINGLE else _GROUP
    groups = (range(start, min(start + width, columns)) for start in range(0, columns, width))
    return tuple((heading(group), len(group)) for group in groups)


def _row(where: str, label: str, scales: HeadScales, span: LogRange | None) -> Row:
    cells = []
    for head, value in enumerate(scales.values):
        step = span.step(value) if span is not None and value is not None and value > 0 else None
        text = significant(value)
        cells.append(Cell(step, f"{where}, head {head}: {text}", text))
    known = [value for value in scales.values if value is not None]
    return Row(label, tuple(cells), f"{significant(min(known))}–{significant(max(known))}" if known else "–")


def _extremes(found: list[HeadScales], names: dict[str, str], part: str) -> str:
    """Return a sentence that says where the smallest and the largest scale are."""
    values = [
        (value, names.get(scales.layer, scales.layer), head)
        for scales in found
        for head, value in enumerate(scales.values)
        if value is not None
    ]
    if not values:
        return ""
    (low, low_layer, low_head), (high, high_layer, high_head) = min(values), max(values)
    return (
        f"Smallest {significant(low)} ({part} {low_layer}, head {low_head}), "
        f"largest {significant(high)} ({part} {high_layer}, head {high_head})."
    )
