"""Prints the tables of `fa3 quantize`: the plan and the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from fa3cli.cli.console import plain
from fa3cli.cli.progress_bar import duration
from fa3cli.report import wording as words

if TYPE_CHECKING:
    from fa3cli.planning.plan import Plan
    from fa3cli.runs.result import Result

__all__ = ["print_plan", "print_result", "settings_text"]


def print_plan(plan: Plan) -> None:
    """Print settings, counts and needed resources, one per row."""
    table = Table("plan", Column("value", overflow="fold"), "from")
    table.add_row("weights", str(plan.folder))
    table.add_row("output", str(plan.output))
    table.add_row("recipe", plan.recipe)
    for name, value in plan.settings.items():
        table.add_row(name, words.value_text(value), plan.origins[name])
    table.add_row("dtype", plan.dtype)
    table.add_row("layers", str(plan.layers))
    table.add_row("int8 linears", words.int8_linears(plan.quantized_linears, plan.schemes))
    table.add_row("linears left float", str(len(plan.float_linears)))
    table.add_row("attention modules with FA3", str(plan.attentions))
    table.add_row("samples", _samples(plan.samples, plan.tokens))
    for number, streams in enumerate(plan.passes, start=1):
        table.add_row(f"pass {number} of {len(plan.passes)} over the weights", _forwards(streams))
    table.add_row("read", words.size(plan.bytes_read))
    table.add_row("written", words.size(plan.bytes_written))
    table.add_row("journal", _journal(plan))
    table.add_row("peak memory", _memory(plan))
    table.add_row("time", _time(plan))
    _console().print(table)


def print_result(result: Result) -> None:
    """Print one row per layer, then the totals and the command that serves each export."""
    scored = any(layer.fa_score is not None for layer in result.layers)
    names = (Column("layer", overflow="fold"), Column("float linears", overflow="fold"))
    table = Table(names[0], "int8 linears", names[1], "FA3", *(["fa_amp score"] if scored else []))
    for layer in result.layers:
        float_names = ", ".join(name.removeprefix(f"{layer.name}.") for name in layer.float_linears)
        fa = {True: "q, k, v", False: "float", None: "-"}[layer.fa]
        score = [f"{layer.fa_score:.4f}"] if layer.fa_score is not None else []
        table.add_row(layer.name, str(layer.quantized), float_names or "-", fa, *score)
    console = _console()
    console.print(table)
    console.print(
        f"{result.output}: {words.size(result.bytes_written)} in {words.count(len(result.files), 'file')}, from "
        f"{_samples(result.samples, result.tokens)} in {result.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for target, command in result.serve.items():
        export = f" {target}" if len(result.serve) > 1 else ""
        # In one line, so that the command can be copied.
        console.print(plain(f"serve{export}: {command or words.NO_ENGINE}"), highlight=False, soft_wrap=True)


def settings_text(plan: Plan) -> str:
    """Return the settings that an option or the recipe has set, in one line."""
    decided = (
        f"{name}={words.value_text(value)} ({plan.origins[name]})"
        for name, value in plan.settings.items()
        if plan.origins[name] != "default"
    )
    return ", ".join(decided) or "all at their defaults"


def _forwards(counts: Mapping[str, int]) -> str:
    """Return the number of forwards of a pass, by purpose."""
    purposes = {"smoothing": "for AntiOutlier", "range_param": "float, for range_param", "calibration": "to calibrate"}
    parts = ", ".join(f"{counts[name]} {purpose}" for name, purpose in purposes.items() if counts[name])
    return f"{words.count(sum(counts.values()), 'forward')}: {parts}"


def _console() -> Console:
    """Return a console without markup: folders and globs have brackets, which rich would interpret."""
    return Console(markup=False, emoji=False)


def _samples(count: int, tokens: int) -> str:
    """Return the amount of calibration data: samples and tokens of text, or recorded calls of a transformer."""
    if not tokens:
        return words.count(count, "recorded call")
    return f"{words.count(count, 'sample')} with {words.count(tokens, 'token')}"


def _journal(plan: Plan) -> str:
    if plan.peak_memory is None:
        return "the records, and each record's states after two blocks; the size is known after the first record"
    return f"{words.size(plan.journal_bytes)} on the disk until the run ends"


def _memory(plan: Plan) -> str:
    if plan.peak_memory is None:
        return "one block and the states of one record; text encoders and VAE while the pipeline is sampled"
    return f"at most about {words.size(plan.peak_memory)} above the imports, without mapped files"


def _time(plan: Plan) -> str:
    if plan.seconds is None:
        return "not estimated"
    return f"about {duration(plan.seconds)}, estimated from a layer timed on this machine"
