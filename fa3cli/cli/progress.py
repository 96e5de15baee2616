"""Progress of a run on stderr: a bar with time left and memory on a terminal, a line a layer elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from fa3cli.calibration.progress import Progress

__all__ = ["show_progress"]


@contextmanager
def show_progress(task: str) -> Iterator[Callable[[Progress], None]]:
    """Yield the function a run reports to."""
    console = Console(stderr=True)
    with _bar(console, task) if console.is_terminal else nullcontext(_lines(console, task)) as report:
        yield report


@contextmanager
def _bar(console: Console, task: str) -> Iterator[Callable[[Progress], None]]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(f"{task}: layer {{task.fields[layer]}}/{{task.fields[layers]}}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("memory {task.fields[memory]}"),
    )
    with Bar(*columns, console=console) as bar:
        shown = bar.add_task(task, total=None, layer=0, layers="?", memory=_memory())

        def report(at: Progress) -> None:
            counts = {"completed": at.sample, "total": at.samples, "layer": at.layer, "layers": at.layers}
            bar.update(shown, **counts, memory=_memory())

        yield report


def _lines(console: Console, task: str) -> Callable[[Progress], None]:
    from fa3cli.calibration.progress import each_layer

    def tell(at: Progress, passed: float, left: float) -> None:
        console.print(
            f"{task}: layer {at.layer}/{at.layers} done, {passed:.0f} s passed, about {left:.0f} s left, "
            f"memory {_memory()}",
            highlight=False,
            soft_wrap=True,
        )

    return each_layer(tell)


def _memory() -> str:
    import psutil

    return f"{psutil.Process().memory_info().rss / 1e9:.2f} GB"
