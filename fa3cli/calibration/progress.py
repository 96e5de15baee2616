"""How far a run over the layers is, at what rate, and what it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

__all__ = ["Progress", "Ticks", "now_and_then"]

_SILENCE = 30.0  # seconds after which a log wants a sign of life


@dataclass(frozen=True)
class Progress:
    """Layers visited of all visits (every pass counts), samples taken through layers of all that will be, and of this
    run alone: tokens through layers, weights read and bytes written per second, resident memory in bytes.
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
    """What `layer` counts: prompts, while a pipeline is sampled, whose steps are the samples."""


def now_and_then(tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return a report that calls `tell` behind each layer, and where one takes long, each half minute."""
    layer, told = 0, 0.0

    def report(at: Progress) -> None:
        nonlocal layer, told
        if at.layer > layer or at.seconds > told + _SILENCE:
            layer, told = at.layer, at.seconds
            tell(at)

    return report


class Ticks:
    """Counts what is done and reports it; with several `ranks`, what all of them do, by this one's share."""

    def __init__(
        self,
        layers: int,
        samples: int,
        report: Callable[[Progress], None],
        *,
        ranks: int = 1,
        unit: str = "layer",
    ) -> None:
        self._unit = unit
        self._layers, self._samples, self._report, self._ranks = layers, samples, report, ranks
        self._layer = self._sample = self._skipped = self._tokens = self._read = 0
        self._process, self._begin = psutil.Process(), time.monotonic()
        self._wrote_before = self._wrote()

    def skip_layer(self, samples: int) -> None:
        """Say that a layer was done before this run."""
        self._layer += 1
        self._sample += samples
        self._skipped += samples

    def sample_begins(self, tokens: int = 0) -> None:
        """Say that the next sample is about to go through the layer at hand."""
        self._report(self._progress())
        self._sample += 1
        self._tokens += tokens * self._ranks

    def layer_ends(self, nbytes: int = 0) -> None:
        """Say that all samples have gone through the layer at hand, of that many bytes of weights."""
        self._layer += 1
        self._read += nbytes
        self._report(self._progress())

    def _progress(self) -> Progress:
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
            written_per_second=(self._wrote() - self._wrote_before) / passed,
            memory=memory,
            peak_memory=max(memory, _peak_memory()),
            unit=self._unit,
        )

    def _wrote(self) -> int:
        """Return the bytes this process has written, where the system counts them."""
        counters = getattr(self._process, "io_counters", None)
        return getattr(counters(), "write_chars", 0) if counters else 0


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
