"""How far a run over the layers is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Ticks", "each_layer"]


@dataclass(frozen=True)
class Progress:
    """Layers visited of all visits (every pass counts), and samples taken through layers of all that will be."""

    layer: int
    layers: int
    sample: int
    samples: int


def each_layer(tell: Callable[[Progress, float, float], None]) -> Callable[[Progress], None]:
    """Return a report that calls `tell` once a visit of a layer, with the seconds passed and those left."""
    begin, told = time.monotonic(), 0

    def report(at: Progress) -> None:
        nonlocal told
        if at.layer > told:
            told, passed = at.layer, time.monotonic() - begin
            tell(at, passed, passed / at.sample * (at.samples - at.sample))

    return report


class Ticks:
    """Counts what is done and reports it."""

    def __init__(self, layers: int, samples: int, report: Callable[[Progress], None]) -> None:
        self._layers, self._samples, self._report = layers, samples, report
        self._layer = self._sample = 0

    def sample_begins(self) -> None:
        """Say that the next sample is about to go through the layer at hand."""
        self._report(Progress(self._layer, self._layers, self._sample, self._samples))
        self._sample += 1

    def skip_layer(self, samples: int) -> None:
        """Say that a layer was done before this run."""
        self._layer += 1
        self._sample += samples
        self._report(Progress(self._layer, self._layers, self._sample, self._samples))

    def layer_ends(self) -> None:
        """Say that all samples have gone through the layer at hand."""
        self._layer += 1
        self._report(Progress(self._layer, self._layers, self._sample, self._samples))
