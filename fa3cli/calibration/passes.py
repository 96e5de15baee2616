"""Passes over the layers: what a run needs to know, in the order in which it can be known.

Several streams of forwards meet at each layer. AntiOutlier's samples run on the model as it is; then the layer is
smoothed. The samples for range_param run on the smoothed float model. The calibration samples come last, in the
reference's numerics on a layer that is quantized. disable_level ranks the linears of all layers before any is
quantized, and so costs a pass of its own for the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from fa3cli.calibration.job import Job
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.memory import FreedMemory
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.progress import Progress, Ticks
from fa3cli.calibration.smoothing import find_smoothing, smooth
from fa3cli.observers.range_param import RangeParam
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.fallback import fall_back_linears, whole_groups
from fa3cli.quantization.input_observers import input_observers

__all__ = ["Streams", "calibrate", "find_all_smoothing", "passes"]

_FEATURES = 5  # samples that range_param is measured on


@dataclass(frozen=True)
class Streams:
    """The samples that one pass takes through the layers, by what they are for."""

    smoothing: int = 0
    features: int = 0
    calibration: int = 0

    @property
    def forwards(self) -> int:
        """Number of forwards."""
        return self.smoothing + self.features + self.calibration


def passes(job: Job) -> list[Streams]:
    """Return the passes a job needs over the layers, with their streams."""
    settings, samples = job.settings, len(job.samples)
    smoothing = _smoothing_samples(job) if settings.anti_method != "none" and not job.smoothing else 0
    features = min(_FEATURES, samples) if settings.level or settings.act_method == 3 else 0
    if settings.level:
        return [Streams(smoothing, features), Streams(calibration=samples)]
    return [Streams(smoothing, features, samples)]


def calibrate(job: Job, report: Callable[[Progress], None] = lambda _: None) -> Iterator[LayerParameters]:
    """Yield the parameters of each layer, and of the head where that is quantized, in the order of the model.

    While the caller works on a layer its weights are loaded, float and smoothed.
    """
    todo, known = passes(job), _Known(smoothing=dict(job.smoothing))
    parts = [*job.model.layers, *job.quantized_head]
    ticks = Ticks(len(parts) * len(todo), len(parts) * sum(each.forwards for each in todo), report)
    for streams in todo[:-1]:
        for _ in _Pass(job, streams, known, ticks).parts(parts):
            pass
    last = _Pass(job, todo[-1], known, ticks)
    fallen = fall_back_linears(known.range_params, job.settings.level)
    float_linears = fallen if job.settings.reference else whole_groups(fallen, job.quantized)
    for part in last.parts(parts):
        yield last.parameters(part, float_linears)


def find_all_smoothing(
    job: Job, report: Callable[[Progress], None] = lambda _: None
) -> Mapping[str, Mapping[str, Tensor]]:
    """Return AntiOutlier's scales by layer. A model in memory is smoothed when all of them are found."""
    known = _Known()
    parts = list(job.model.layers)
    streams = Streams(smoothing=_smoothing_samples(job))
    ticks = Ticks(len(parts), len(parts) * streams.forwards, report)
    for _ in _Pass(job, streams, known, ticks).parts(parts):
        pass
    for layer in parts if job.model.resident else ():
        smooth(job.model, layer, job.settings.anti_method, known.smoothing[layer])
    return known.smoothing


def _smoothing_samples(job: Job) -> int:
    return METHODS[job.settings.anti_method].samples(len(job.samples))


@dataclass
class _Known:
    """What the passes found out so far: AntiOutlier's scales by layer, range_param by linear."""

    smoothing: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    range_params: dict[str, float] = field(default_factory=dict)


class _Pass:
    """One pass of some streams over the layers."""

    def __init__(self, job: Job, streams: Streams, known: _Known, ticks: Ticks) -> None:
        self._job, self._streams, self._known, self._ticks = job, streams, known, ticks
        self._structures: set[tuple[tuple[str, type], ...]] = set()  # of layers, whose smoothing was checked
        self._freed = FreedMemory(job.model.layer_bytes)
        features = streams.smoothing + streams.features
        self._stream_of = {
            "smoothing": range(streams.smoothing),
            "features": range(streams.smoothing, features),
            "calibration": range(features, streams.forwards),
        }

    def parts(self, parts: Sequence[str]) -> Iterator[str]:
        """Yield each layer when its first two streams are through it; within the yield its weights are loaded."""
        model = self._job.model
        inputs = [sample.inputs(model.device) for sample in self._job.samples]
        samples = [inputs[index] for stream in self._stream_of.values() for index in range(len(stream))]
        self._last = len(parts) - 1
        forwards = LayerSynchronousForwards(model.model, list(model.layers.values()), samples)
        with model.evaluating(), forwards as self._forwards:
            with model.loaded(model.before_layers):
                self._forwards.start()
            for self._index, part in enumerate(parts):
                with model.loaded(model.needed(part)):
                    self._smooth(part)
                    self._measure(part)
                    yield part
                self._ticks.layer_ends()

    def parameters(self, part: str, float_linears: frozenset[str]) -> LayerParameters:
        """Take the calibration stream through a layer and return what was seen."""
        job, model = self._job, self._job.model
        linears = {name: each for name, each in self._linears(part).items() if name not in float_linears}
        attentions = {name: each for name, each in model.attentions(part).items() if name in job.attentions}
        observers = input_observers(job.settings, list(linears), self._known.range_params)
        with LayerObservation(observers, linears, attentions, job.settings) as observation:
            self._advance("calibration", observation.see)
        return observation.parameters(part, self._known.smoothing.get(part, {}))

    def _smooth(self, part: str) -> None:
        known, model = self._known.smoothing, self._job.model
        run = partial(self._advance, "smoothing")
        if part not in model.layers:
            run(lambda _: None)
        elif self._streams.smoothing:
            structure = tuple((name, type(each)) for name, each in model.layers[part].named_modules())
            new = structure not in self._structures
            known[part] = find_smoothing(model, part, self._job.settings, run, checked=new)
            self._structures.add(structure)
        if part in known and not model.resident:
            smooth(model, part, self._job.settings.anti_method, known[part])

    def _measure(self, part: str) -> None:
        if self._streams.features:
            linears, observer = self._linears(part), RangeParam(in_float32=not self._job.settings.reference)
            with LinearInputs(linears, dict.fromkeys(linears, observer)) as inputs:
                self._advance("features", inputs.see)
            self._known.range_params |= {name: seen.value() for name, seen in inputs.observers.items()}

    def _linears(self, part: str) -> dict[str, nn.Linear]:
        quantized = self._job.quantized
        return {name: each for name, each in self._job.model.linears(part).items() if name in quantized}

    def _advance(self, stream: str, see: Callable[[Tensor | None], None]) -> None:
        """Take a stream through the layer at hand; `see` is told each sample's mask before."""
        for position, forward in enumerate(self._stream_of[stream]):
            self._ticks.sample_begins()
            see(None if self._job.settings.reference else self._job.samples[position].mask)
            self._forwards.advance(forward, self._index)
            if self._index == self._last:
                self._forwards.stop(forward)
            self._freed.release_if_grown()
