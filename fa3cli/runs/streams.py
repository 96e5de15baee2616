"""Decides how many samples run through the layers for which purpose, and in how many passes."""

from __future__ import annotations

from dataclasses import dataclass

from fa3cli.calibration.ranks import Ranks
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.runs.job import Job

__all__ = ["Streams", "own_forwards", "passes", "smoothing_samples"]

_FEATURES = 5  # samples that range_param is measured on


@dataclass(frozen=True)
class Streams:
    """The numbers of samples in one pass over the layers, by purpose; `features` are those for range_param."""

    smoothing: int = 0
    features: int = 0
    calibration: int = 0

    @property
    def forwards(self) -> int:
        """Number of forwards."""
        return self.smoothing + self.features + self.calibration


def passes(job: Job) -> list[Streams]:
    """Return the passes a job needs over the layers, with their streams."""
    settings, samples = job.settings, job.sample_count
    smoothing = smoothing_samples(job) if settings.anti_method != "none" and not job.smoothing else 0
    features = min(_FEATURES, samples) if settings.level or settings.act_method == 3 else 0
    if settings.level:
        return [Streams(smoothing, features), Streams(calibration=samples)]
    return [Streams(smoothing, features, samples)]


def smoothing_samples(job: Job) -> int:
    """Return the number of samples that AntiOutlier uses."""
    return METHODS[job.settings.anti_method].samples(len(job.samples))


def own_forwards(streams: Streams, ranks: Ranks) -> list[tuple[str, int]]:
    """Return this rank's forwards: for each, the name of its stream and the position of its sample."""
    return [
        (stream, position)
        for stream in ("smoothing", "features", "calibration")
        for position in ranks.positions(getattr(streams, stream))
    ]
