"""Measures and reports the progress of a run: layers, samples, rates and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Ticks", "now_and_then", "silent"]

_LOG_INTERVAL = 30.0  # seconds without a message after which a log gets one


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    `layer` counts visits of layers in all passes, `sample` counts samples that ran through a layer. Rates
    (tokens, bytes read and written per second) and resident memory in bytes are of this run, not of the one it resumes.
    """

    layer: int
    layers: int
    sample: int
    samples: int
    seconds: float = 0.0
    seconds_left: float | None = None
    tokens_per_second: float = 0.0
    read_per_second: float = 0.0
    written_per_second: float = 0.0
    memory: int = 0
    peak_memory: int = 0
    unit: str = "layer"
    """The unit of `layer`; while a pipeline is sampled, `layer` counts prompts and `sample` counts steps."""


def silent(progress: Progress) -> None:
    """Report nothing."""


def now_and_then(tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return a report function that calls `tell` after each layer, and every 30 s within a long layer."""
    layer, last_report = 0, 0.0

    def report(at: Progress) -> None:
        nonlocal layer, last_report
        if at.layer > layer or at.seconds > last_report + _LOG_INTERVAL:
            layer, last_report = at.layer, at.seconds
            tell(at)

    return report


class Ticks:
    """Counts finished work and reports it; with several `ranks`, estimates the total from this rank's share."""

    def __init__(
        self, layers: int, samples: int, report: Callable[[Progress], None], *, ranks: int = 1, unit: str = "layer"
    ) -> None:
        self._unit = unit
        self._layers, self._samples, self._report, self._ranks = layers, samples, report, ranks
        self._layer = self._sample = self._skipped = self._tokens = self._read = 0
        import psutil  # type: ignore[import-untyped]  # no types; a slow import, and the command line imports this module

        self._process, self._begin = psutil.Process(), time.monotonic()
        self._wrote_before = self._bytes_written()

    def skip_layer(self, samples: int) -> None:
        """Count a layer that an earlier run has finished."""
        self._layer += 1
        self._sample += samples
        self._skipped += samples

    def sample_begins(self, tokens: int = 0) -> None:
        """Count a sample that starts to run through the current layer."""
        self._report(self._progress())
        self._sample += 1
        self._tokens += tokens * self._ranks

    def layer_ends(self, nbytes: int = 0) -> None:
        """Count a layer, with `nbytes` of weights, through which all samples have run."""
        self._layer += 1
        self._read += nbytes
        self._report(self._progress())

    def _progress(self) -> Progress:
        # Only samples of this run count: it spent no time on the samples of the run that it resumes.
        passed, done = max(time.monotonic() - self._begin, 1e-9), self._sample - self._skipped
        memory = self._process.memory_info().rss
        return Progress(
            layer=self._layer,
            layers=self._layers,
            sample=self._sample,
            samples=self._samples,
            seconds=passed,
            seconds_left=passed / done * (self._samples - self._sample) if done else None,
            tokens_per_second=self._tokens / passed,
            read_per_second=self._read / passed,
            written_per_second=(self._bytes_written() - self._wrote_before) / passed,
            memory=memory,
            peak_memory=max(memory, _peak_memory()),
            unit=self._unit,
        )

    def _bytes_written(self) -> int:
        """Return the bytes that this process has written, 0 if the system does not count them."""
        # psutil has no io_counters on macOS.
        counters = getattr(self._process, "io_counters", None)
        return getattr(counters(), "write_chars", 0) if counters else 0


def _peak_memory() -> int:
    # ru_maxrss is in bytes on macOS, in KiB on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
