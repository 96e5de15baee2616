"""Shows the progress of a run: a bar on a terminal, lines elsewhere, or json objects on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from fa3cli.cli.console import print_event

if TYPE_CHECKING:
    from fa3cli.runs.progress import Progress

__all__ = ["duration", "show_progress"]


def show_progress(task: str, *, as_json: bool = False) -> AbstractContextManager[Callable[[Progress], None]]:
    """Return a context manager that yields a function for the reports of a run."""
    from fa3cli.runs.progress import now_and_then

    if as_json:
        return nullcontext(now_and_then(partial(print_event, "progress")))
    console = Console(stderr=True)
    if console.is_terminal:
        return _bar(console, task)

    def tell(at: Progress) -> None:
        console.print(f"{task}: {_line(at)}", highlight=False, soft_wrap=True)

    return nullcontext(now_and_then(tell))


@contextmanager
def _bar(console: Console, task: str) -> Iterator[Callable[[Progress], None]]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(f"{task}:"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}"))
    with Bar(*columns, console=console) as bar:
        shown = bar.add_task(task, total=None, line="")

        def report(at: Progress) -> None:
            bar.update(shown, completed=at.sample, total=at.samples, line=_line(at))

        yield report


def _line(at: Progress) -> str:
    left = "" if at.seconds_left is None else f", about {duration(at.seconds_left)} left"
    tokens = f"{at.tokens_per_second:,.0f} tokens/s, " if at.tokens_per_second else ""
    return (
        f"{at.unit} {at.layer}/{at.layers} done, {duration(at.seconds)} passed{left}, {tokens}"
        f"read {_rate(at.read_per_second)}, "
        f"written {_rate(at.written_per_second)}, "
        f"memory {at.memory / 1e9:.2f} GB, at most {at.peak_memory / 1e9:.2f} GB"
    )


def duration(seconds: float) -> str:
    """Return a time with units: 42 s, 3 min 5 s, 2 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _rate(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.0f} MB/s"
