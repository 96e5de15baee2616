"""Runs the passes over the layers that a job needs, in an order in which each step has its inputs.

Each layer gets several streams of forwards. AntiOutlier's samples run first, on the original layer; then the layer is
smoothed. The samples for range_param run on the smoothed float layer. The calibration samples run last; with the
reference's numerics, on a quantized layer. disable_level ranks the linears of all layers before any is quantized, so
the first two streams then need a pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.smoothing import smooth
from fa3cli.errors import StoppedError
from fa3cli.runs.job import Job
from fa3cli.runs.journal import Journal
from fa3cli.runs.layer_pass import LayerPass
from fa3cli.runs.progress import Progress, Ticks
from fa3cli.runs.streams.findings import Findings
from fa3cli.runs.streams.schedule import own_forwards, passes, smoothing_stream

__all__ = ["calibrate", "find_all_smoothing"]

Write = Callable[[LayerParameters], Mapping[str, str]]
"""Writes a layer and returns its warnings by module."""


def calibrate(
    job: Job,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    write: Write = lambda _: {},
    journal: Journal | None = None,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> list[LayerParameters]:
    """Return the parameters of each layer, and of the head if it is quantized, in the order of the model.

    `write` is called with the layer's weights loaded, float and smoothed; for layers that the journal holds already,
    they are not loaded. Raises StoppedError after the layer at which `stop` returns True.
    """
    todo, journal = passes(job), journal or Journal()
    parts, findings = [*job.model.layers, *job.quantized_head], Findings(dict(job.smoothing))
    forwards = sum(len(own_forwards(streams, ranks)) for streams in todo)
    ticks = Ticks(len(parts) * len(todo), len(parts) * forwards, report, ranks=ranks.size)
    # Copied: commit appends to the journal's own list.
    earlier, calibrated = list(journal.visits), []
    for number, streams in enumerate(todo):
        done, earlier = earlier[: len(parts)], earlier[len(parts) :]
        layer_pass = LayerPass(job, streams, findings, ticks, ranks)
        for layer in done:
            findings.add(layer)
            ticks.skip_layer(len(own_forwards(streams, ranks)))
            if number == len(todo) - 1:
                # Nothing is loaded: the writer leaves gaps, which hold the tensors of the stopped run.
                write(layer)
                calibrated.append(layer)
        for layer in layer_pass.visits(parts, journal, len(done)):
            if number == len(todo) - 1:
                # Each rank quantizes a part of the layer's linears, and warns of these only.
                layer = replace(layer, warnings=layer.warnings + _all_warnings(job, layer, ranks.gather(write(layer))))
                calibrated.append(layer)
            # Committed after write: a journal entry says that the layer is in the export.
            journal.commit(layer, *layer_pass.boundary())
            # One decision for all ranks; after the last layer of the last pass there is nothing to stop.
            if any(ranks.gather(stop())) and (layer.name != parts[-1] or number < len(todo) - 1):
                raise StoppedError(
                    f"stopped after {layer.name} (interrupted)", hint="the same command resumes from here"
                )
    return calibrated


def find_all_smoothing(
    job: Job, report: Callable[[Progress], None] = lambda _: None
) -> Mapping[str, Mapping[str, Tensor]]:
    """Return AntiOutlier's scales by layer; then smooth the model, if it is in memory."""
    findings, parts = Findings(), list(job.model.layers)
    stream = smoothing_stream(job)
    ticks = Ticks(len(parts), len(parts) * stream.count, report)
    for _ in LayerPass(job, [stream], findings, ticks, ALONE).visits(parts, Journal(), 0):
        pass
    # Smoothed after all visits: an error in a visit leaves the script's model unchanged.
    for layer in parts if job.model.resident else ():
        smooth(job.model, layer, job.settings.anti_method, findings.smoothing[layer])
    return findings.smoothing


def _all_warnings(job: Job, layer: LayerParameters, warnings: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return every rank's warnings of a layer, in the order of its linears."""
    return tuple(
        rank_warnings[name]
        for name in job.model.linears(layer.name)
        for rank_warnings in warnings
        if name in rank_warnings
    )
