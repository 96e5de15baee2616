"""Draws heat maps in a terminal: one bar character per head, also coloured where the terminal has colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fa3cli.cli.console import plain
from fa3cli.report.colours import STEPS, shades
from fa3cli.report.heat_maps import HeatMap, Row, heat_maps

if TYPE_CHECKING:
    from fa3cli.report.facts import Facts

__all__ = ["map_tables"]

_HEIGHTS = "▁▂▃▄▅▆▇█"
_RANGE = 15  # width of the two numbers before a bar
_BORDERS = 4  # of a table; a column takes about as many


def map_tables(facts: Facts, width: int) -> list[Table]:
    """Return one table with all maps, or one table per map in a narrow terminal, or no bars in a very narrow one."""
    maps = heat_maps(facts)
    label = max((len(row.label) for heat_map in maps for row in heat_map.rows), default=0)
    room = width - 2 * _BORDERS - max(label, len(facts.part))
    widths = [heat_map.columns + _RANGE + _BORDERS for heat_map in maps]
    together = len({tuple(row.label for row in heat_map.rows) for heat_map in maps}) == 1
    bars = max(widths, default=0) <= room
    if together and (sum(widths) <= room or not bars):
        return [_table(maps, bars=bars)]
    return [_table([heat_map], bars=bars) for heat_map in maps]


def _table(maps: list[HeatMap], *, bars: bool) -> Table:
    table = Table(maps[0].part, *(f"{heat_map.role} scales of {heat_map.columns} heads" for heat_map in maps))
    for rows in zip(*(heat_map.rows for heat_map in maps), strict=True):
        table.add_row(plain(rows[0].label), *(_cell(row, bars) for row in rows))
    return table


def _cell(row: Row, bars: bool) -> Text:
    """Return the range of a layer's scales, and one bar per scale."""
    if not row.cells or not bars:
        return Text(row.span)
    colours = shades(dark=True)
    text = Text(f"{row.span:{_RANGE}} ", no_wrap=True)
    for cell in row.cells:
        if cell.step is None:
            text.append("?")
        else:
            text.append(_HEIGHTS[cell.step * len(_HEIGHTS) // STEPS], colours[cell.step].background)
    return text
