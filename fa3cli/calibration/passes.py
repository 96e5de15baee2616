"""Passes over the layers: what a run needs to know, in the order in which it can be known.

Several streams of forwards meet at each layer. AntiOutlier's samples run on the model as it is; then the layer is
smoothed. The samples for range_param run on the smoothed float model. The calibration samples come last, in the
reference's numerics on a layer that is quantized. disable_level ranks the linears of all layers before any is
quantized, and so costs a pass of its own for the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fa3cli.calibration.job import Job
from fa3cli.calibration.journal import Journal
from fa3cli.calibration.layer_pass import Known, LayerPass
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.progress import Progress, Ticks
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.smoothing import smooth
from fa3cli.calibration.streams import Streams, passes, shares, smoothing_samples
from fa3cli.errors import StoppedError

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
    """Return the parameters of each layer, and of the head where that is quantized, in the order of the model.

    While `write` works on a layer its weights are loaded, float and smoothed, unless the journal has the layer already.
    Raises StoppedError behind the layer at which `stop` says so.
    """
    todo, journal = passes(job), journal or Journal()
    parts, known = [*job.model.layers, *job.quantized_head], Known(dict(job.smoothing))
    forwards = sum(len(shares(streams, ranks)) for streams in todo)
    ticks = Ticks(len(parts) * len(todo), len(parts) * forwards, report, ranks=ranks.size)
    earlier, calibrated = list(journal.visits), []
    for number, streams in enumerate(todo):
        done, earlier = earlier[: len(parts)], earlier[len(parts) :]
        this = LayerPass(job, streams, known, ticks, ranks)
        for layer in done:
            known.learn(layer)
            ticks.skip_layer(len(shares(streams, ranks)))
            if streams.calibration:
                write(layer)
                calibrated.append(layer)
        for layer in this.visits(parts, journal, len(done)):
            if streams.calibration:
                layer = replace(
                    layer, warnings=layer.warnings + _all_warnings(job, layer, ranks.gather(write(layer)))
                )
                calibrated.append(layer)
            journal.commit(layer, *this.boundary())
            if any(ranks.gather(stop())) and (layer.name != parts[-1] or number < len(todo) - 1):
                raise StoppedError(
                    f"stopped behind {layer.name}, as asked", hint="the same command goes on from here"
                )
    return calibrated


def find_all_smoothing(
    job: Job, report: Callable[[Progress], None] = lambda _: None
) -> Mapping[str, Mapping[str, Tensor]]:
    """Return AntiOutlier's scales by layer. A model in memory is smoothed when all of them are found."""
    known, parts = Known(), list(job.model.layers)
    streams = Streams(smoothing=smoothing_samples(job))
    ticks = Ticks(len(parts), len(parts) * streams.forwards, report)
    for _ in LayerPass(job, streams, known, ticks, ALONE).visits(parts, Journal(), 0):
        pass
    for layer in parts if job.model.resident else ():
        smooth(job.model, layer, job.settings.anti_method, known.smoothing[layer])
    return known.smoothing


def _all_warnings(job: Job, layer: LayerParameters, warnings: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return every rank's warnings of a layer, in the order of its linears."""
    return tuple(each[name] for name in job.model.linears(layer.name) for each in warnings if name in each)
