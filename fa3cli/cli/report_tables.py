"""Prints a report as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from fa3cli.cli.console import plain, warn
from fa3cli.cli.report_maps import map_tables
from fa3cli.report import wording as words
from fa3cli.report.fallbacks import fallbacks, linears_by_reason
from fa3cli.report.timesteps import spread_of

if TYPE_CHECKING:
    from fa3cli.report.facts import Accuracy, Facts, LayerFacts

__all__ = ["accuracy_table", "print_facts"]


def print_facts(facts: Facts) -> None:
    """Print the contents of the report page as tables; warnings go to stderr."""
    console = Console(markup=False, emoji=False, highlight=False)
    tables = [_summary(facts), _layers(facts), *map_tables(facts, console.width), _timesteps(facts)]
    tables.append(_fallbacks(facts))
    tables.append(_accuracy(facts.accuracy) if facts.accuracy else None)
    tables.append(_pairs("images compared with the float pipeline", words.image_rows(facts.images)))
    if facts.origin:
        origin = facts.origin
        tables += [
            _pairs("setting", origin.settings.items()),
            _pairs("made with", [*origin.versions.items(), *origin.run.items()]),
            _pairs("made from", origin.hashes.items(), "sha256"),
        ]
    for table in tables:
        if table is not None and table.row_count:
            console.print(table)
    console.print(plain(f"serve: {facts.serve or words.NO_ENGINE}"), soft_wrap=True)
    if not facts.accuracy and not facts.images:
        console.print(plain(f"accuracy not measured: {words.how_to_measure(facts)}"), soft_wrap=True)
    for text in (*facts.warnings, *facts.remarks):
        warn(plain(text))


def _summary(facts: Facts) -> Table:
    kind = [facts.architecture or facts.model_type or "model of unknown type", facts.dtype or "unknown dtype"]
    rows = [
        (facts.name, ", ".join(kind)),
        ("target", facts.target or "unknown"),
        ("size", f"{words.size(facts.size)} in {words.count(facts.files, 'file')}"),
        ("int8 linears", f"{words.int8_linears(facts.quantized, facts.schemes)}"),
        ("float linears", f"{facts.left_float:,} in the {facts.part}s"),
        (f"{facts.part}s with int8 attention", words.fraction(facts.with_fa, facts.attentions)),
    ]
    if facts.worst:
        names = words.labels(facts.layers)
        worst = (f"{names[layer.name]} ({words.percent(layer.error)})" for layer in facts.worst)
        rows.append((f"{facts.part}s with the largest error", ", ".join(worst)))
    if facts.origin:
        rows.append(("recipe", facts.origin.recipe or "unknown"))
        rows.append(("calibrated on", words.calibrated_on(facts.origin)))
    return _pairs("export", rows)


def _layers(facts: Facts) -> Table:
    """Return a table with a row per layer; columns without any known value are omitted."""
    names = words.labels(facts.layers)
    columns = {
        facts.part: [names[layer.name] for layer in facts.layers],
        "int8 linears": [str(layer.quantized) for layer in facts.layers],
        "float linears": [linears_by_reason(layer) for layer in facts.layers],
        "FA3": [_attention(layer) for layer in facts.layers],
        "error": [words.percent(layer.error) for layer in facts.layers],
        f"after {facts.part}": [words.percent(layer.accumulated_error) for layer in facts.layers],
        "fa_amp score": [words.significant(layer.fa_score) for layer in facts.layers],
    }
    known = {name: cells for name, cells in columns.items() if set(cells) - {"–"} or name == "float linears"}
    table = Table(*(Column(name, overflow="fold") for name in known))
    for row in zip(*known.values(), strict=True):
        table.add_row(*map(plain, row))
    return table


def _attention(layer: LayerFacts) -> str:
    if layer.fa:
        return ", ".join(layer.fa_roles)
    return "–" if layer.fa is None else f"float ({layer.fa_reason or 'not recorded'})"


def _timesteps(facts: Facts) -> Table | None:
    """Return a table with a row per block: how the largest values of q, k, v vary over the timesteps, and the peaks."""
    spreads = {layer.name: [spread_of(layer, role) for role in "qkv"] for layer in facts.layers}
    known = {name: roles for name, roles in spreads.items() if any(roles)}
    if not known:
        return None
    names = words.labels(facts.layers)
    table = Table(
        Column(facts.part, overflow="fold"),
        *(f"largest {role} over timesteps" for role in "qkv"),
        caption="ratio of the largest to the smallest, and the timestep of the largest",
    )
    for name, roles in known.items():
        table.add_row(plain(names[name]), *("–" if spread is None else str(spread) for spread in roles))
    return table


def _fallbacks(facts: Facts) -> Table:
    table = Table(Column("float", overflow="fold"), "count", Column("where", overflow="fold"), "why")
    for row in fallbacks(facts):
        table.add_row(plain(row.module), str(row.count), plain(row.where), plain(row.reason))
    return table


def accuracy_table(accuracy: Accuracy) -> Table:
    """Return the comparison on text; `fa3 verify` prints the same table."""
    table = Table("on the text", "float", "quantized")
    for row in words.accuracy_rows(accuracy):
        table.add_row(*row)
    return table


def _accuracy(accuracy: Accuracy) -> Table:
    table = accuracy_table(accuracy)
    table.caption = words.measured_on(accuracy)
    return table


def _pairs(title: str, pairs: Iterable[tuple[str, Any]], heading: str = "value") -> Table:
    table = Table(Column(title, overflow="fold"), Column(heading, overflow="fold"))
    for name, value in pairs:
        table.add_row(plain(name), plain(words.value_text(value)))
    return table
