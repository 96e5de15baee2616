"""Computes how a block's q, k and v change over the timesteps of a sampling: spreads, and heat maps of the peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fa3cli.report.colours import LogRange
from fa3cli.report.facts import Facts, LayerFacts
from fa3cli.report.heat_maps import Cell, HeatMap, Row, column_groups
from fa3cli.report.wording import labels, percent, significant

__all__ = ["Spread", "spread_of", "timestep_maps", "timestep_text"]


@dataclass(frozen=True)
class Spread:
    """The ratio of a role's largest peak in one block to its smallest, and the timestep of the largest."""

    ratio: float
    largest: float
    largest_at: float

    def __str__(self) -> str:
        return f"{significant(self.ratio)} at {timestep_text(self.largest_at)}"


def spread_of(layer: LayerFacts, role: str) -> Spread | None:
    """Return the spread of a role's peaks; None if no peak above 0 is known."""
    peaks = {timestep: peak for timestep, peak in _peaks(layer, role).items() if peak}
    if not peaks:
        return None
    largest_at = max(peaks, key=peaks.__getitem__)
    return Spread(peaks[largest_at] / min(peaks.values()), peaks[largest_at], largest_at)


def timestep_maps(facts: Facts) -> list[HeatMap]:
    """Return maps of q, k and v: a row per block, a column per timestep; values are shares of the row's largest."""
    timesteps = {peaks.timestep for layer in facts.layers for peaks in layer.timesteps}
    columns = sorted(timesteps, reverse=True)  # sampling goes from the largest timestep to the smallest
    maps = [_map(facts, role, columns) for role in "qkv"]
    return [heat_map for heat_map in maps if heat_map is not None]


def timestep_text(timestep: float) -> str:
    """Return a timestep as text, without a decimal point if it is a whole number."""
    return f"{timestep:g}"


def _map(facts: Facts, role: str, columns: list[float]) -> HeatMap | None:
    spreads = {layer.name: spread_of(layer, role) for layer in facts.layers}
    if not any(spreads.values()):
        return None
    peaks = {layer.name: _peaks(layer, role) for layer in facts.layers}
    shares = [peak / spread.largest for name, spread in spreads.items() if spread for peak in peaks[name].values()]
    # No share is above 1, so a narrow range is widened downwards only.
    span = LogRange(min(0.5, *(share for share in shares if share)), 1.0)
    names = labels(facts.layers)
    return HeatMap(
        role=role,
        part=facts.part,
        column="timestep",
        columns=len(columns),
        groups=column_groups(len(columns), lambda group: _heading([columns[index] for index in group])),
        rows=tuple(
            _row(facts.part, names[name], peaks[name], spread, columns, span) for name, spread in spreads.items()
        ),
        span="spread",
        range=span,
        extremes=_extremes(facts.part, {names[name]: spread for name, spread in spreads.items() if spread}),
    )


def _peaks(layer: LayerFacts, role: str) -> dict[float, float]:
    """Return a role's peak at each timestep; if a timestep has several records, the largest."""
    found: dict[float, float] = {}
    for peaks in layer.timesteps:
        peak = getattr(peaks, role)
        if peak is not None and peak >= 0:
            found[peaks.timestep] = max(peak, found.get(peaks.timestep, 0.0))
    return found


def _row(
    part: str, label: str, peaks: dict[float, float], spread: Spread | None, columns: list[float], span: LogRange
) -> Row:
    if spread is None:
        return Row(label, (), "–")
    cells = []
    for timestep in columns:
        peak = peaks.get(timestep)
        share = None if peak is None else peak / spread.largest
        text = percent(share)
        where = f"{part} {label}, timestep {timestep_text(timestep)}"
        title = f"{where}: {significant(peak)}, {text} of its largest"
        cells.append(Cell(span.step(share) if share else None, title, text))
    return Row(label, tuple(cells), str(spread))


def _heading(timesteps: Sequence[float]) -> str:
    first, last = timestep_text(timesteps[0]), timestep_text(timesteps[-1])
    return first if len(timesteps) == 1 else f"{first}–{last}"


def _extremes(part: str, spreads: dict[str, Spread]) -> str:
    """Return a sentence that says which block's peaks have the largest ratio."""
    label, widest = max(spreads.items(), key=lambda item: item[1].ratio)
    return (
        f"Largest ratio in {part} {label}: up to {significant(widest.largest)} at timestep "
        f"{timestep_text(widest.largest_at)}, {significant(widest.ratio)} times its smallest."
    )
