"""The scales of q, k and v as grids: a row a layer, a column a head."""

from __future__ import annotations

from dataclasses import dataclass

from fa3cli.report.colours import LogRange, log_range
from fa3cli.report.facts import Facts, HeadScales
from fa3cli.report.names import inside, spans
from fa3cli.report.wording import labels, significant

__all__ = ["Cell", "HeatMap", "Row", "heat_maps"]

_WRITTEN = 8  # heads up to which a cell has room for its value
_SINGLE = 16  # heads up to which each has a heading of its own
_GROUP = 8


@dataclass(frozen=True)
class Cell:
    """One head's scale; `step` of the colour scale is None where the value has no logarithm."""

    step: int | None
    title: str
    text: str


@dataclass(frozen=True)
class Row:
    """One attention module; without cells where it has no scales."""

    label: str
    cells: tuple[Cell, ...]
    span: str


@dataclass(frozen=True)
class HeatMap:
    """All scales of q, of k or of v."""

    role: str
    heads: int
    groups: tuple[tuple[str, int], ...]
    """Heading and width of each group of columns."""
    written: bool
    rows: tuple[Row, ...]
    range: LogRange | None
    extremes: str


def heat_maps(facts: Facts) -> list[HeatMap]:
    """Return one map for each of q, k and v that has scales."""
    maps = [_heat_map(facts, role) for role in "qkv"]
    return [each for each in maps if each is not None]


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
            longer = f"{label} {inside(scales.module, layer)}" if len(modules) > 1 else label
            rows.append(_row(longer, scales, span))
        if not modules:
            rows.append(Row(label, (), "float" if layer in float_layers else "–"))
    return HeatMap(role, heads, _groups(heads), heads <= _WRITTEN, tuple(rows), span, _extremes(found, names))


def _row(label: str, scales: HeadScales, span: LogRange | None) -> Row:
    cells = []
    for head, value in enumerate(scales.values):
        sound = value is not None and value > 0 and span is not None
        text = significant(value)
        cells.append(Cell(span.step(value) if sound else None, f"layer {label}, head {head}: {text}", text))
    known = [value for value in scales.values if value is not None]
    return Row(label, tuple(cells), f"{significant(min(known))}–{significant(max(known))}" if known else "–")


def _groups(heads: int) -> tuple[tuple[str, int], ...]:
    if heads <= _SINGLE:
        return tuple((str(head), 1) for head in range(heads))
    starts = range(0, heads, _GROUP)
    return tuple(
        (spans(range(start, min(start + _GROUP, heads))), min(_GROUP, heads - start)) for start in starts
    )


def _extremes(found: list[HeadScales], names: dict[str, str]) -> str:
    """Say where the smallest and the largest scale are."""
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
        f"Smallest {significant(low)} (layer {low_layer}, head {low_head}), "
        f"largest {significant(high)} (layer {high_layer}, head {high_head})."
    )
