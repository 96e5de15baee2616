"""Decides which streams run through the layers, with how many samples, and in how many passes."""

from __future__ import annotations

from collections.abc import Sequence

from fa3cli.calibration.ranks import Ranks
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.runs.job import Job
from fa3cli.runs.streams.calibration_stream import CalibrationStream
from fa3cli.runs.streams.range_param_stream import RangeParamStream
from fa3cli.runs.streams.smoothing_stream import SmoothingStream
from fa3cli.runs.streams.stream import Stream

__all__ = ["own_forwards", "passes", "smoothing_stream"]

_RANGE_PARAM_SAMPLES = 5  # as many as the reference uses


def passes(job: Job) -> list[list[Stream]]:
    """Return the passes a job needs over the layers, with their streams in the order in which they run through a layer.

    disable_level ranks the linears of all layers before any is quantized, so calibration then needs a second pass.
    """
    settings, calibration = job.settings, CalibrationStream(job, job.sample_count)
    finds_smoothing = settings.anti_method != "none" and not job.smoothing
    first: list[Stream] = [smoothing_stream(job) if finds_smoothing else SmoothingStream(job, 0)]
    if settings.level or settings.act_method == 3:
        first.append(RangeParamStream(job, min(_RANGE_PARAM_SAMPLES, job.sample_count)))
    if settings.level:
        # The second pass loads the layers from the files again, so it applies the scales of the first.
        return [first, [SmoothingStream(job, 0), calibration]]
    return [[*first, calibration]]


def smoothing_stream(job: Job) -> SmoothingStream:
    """Return the stream that finds AntiOutlier's scales."""
    return SmoothingStream(job, METHODS[job.settings.anti_method].samples(len(job.samples)))


def own_forwards(streams: Sequence[Stream], ranks: Ranks) -> list[tuple[Stream, int]]:
    """Return this rank's forwards: for each, its stream and the position of its sample."""
    return [(stream, position) for stream in streams for position in ranks.positions(stream.count)]
