"""Passes over the layers: what a run needs to know, in the order in which it can be known.

Several streams of forwards meet at each layer. AntiOutlier's samples run on the model as it is; then the layer is
smoothed. The samples for range_param run on the smoothed float model. The calibration samples come last, in the
reference's numerics on a layer that is quantized. disable_level ranks the linears of all layers before any is
quantized, and so costs a pass of its own for the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from fa3cli.calibration.job import Job
from fa3cli.calibration.journal import Journal
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.memory import FreedMemory
from fa3cli.calibration.moving import each_tensor
from fa3cli.calibration.out_of_memory import PatientLayers
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.progress import Progress, Ticks
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.smoothing import find_smoothing, smooth
from fa3cli.errors import StoppedError
from fa3cli.observers.range_param import RangeParam
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.fallback import fall_back_linears, whole_groups
from fa3cli.quantization.input_observers import input_observers

__all__ = ["Streams", "calibrate", "find_all_smoothing", "passes"]

_FEATURES = 5  # samples that range_param is measured on

Write = Callable[[LayerParameters], Mapping[str, str]]
"""Writes a layer and returns its warnings by module."""


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
    parts, known = [*job.model.layers, *job.quantized_head], _Known(dict(job.smoothing))
    forwards = sum(len(_shares(streams, ranks)) for streams in todo)
    ticks = Ticks(len(parts) * len(todo), len(parts) * forwards, report, ranks=ranks.size)
    earlier, calibrated = list(journal.visits), []
    for number, streams in enumerate(todo):
        done, earlier = earlier[: len(parts)], earlier[len(parts) :]
        this = _Pass(job, streams, known, ticks, ranks)
        for layer in done:
            known.learn(layer)
            ticks.skip_layer(len(_shares(streams, ranks)))
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
    known, parts = _Known(), list(job.model.layers)
    streams = Streams(smoothing=_smoothing_samples(job))
    ticks = Ticks(len(parts), len(parts) * streams.forwards, report)
    for _ in _Pass(job, streams, known, ticks, ALONE).visits(parts, Journal(), 0):
        pass
    for layer in parts if job.model.resident else ():
        smooth(job.model, layer, job.settings.anti_method, known.smoothing[layer])
    return known.smoothing


def _smoothing_samples(job: Job) -> int:
    return METHODS[job.settings.anti_method].samples(len(job.samples))


def _all_warnings(job: Job, layer: LayerParameters, warnings: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return every rank's warnings of a layer, in the order of its linears."""
    return tuple(each[name] for name in job.model.linears(layer.name) for each in warnings if name in each)


@dataclass
class _Known:
    """What the visits found out so far: AntiOutlier's scales by layer, range_param by linear."""

    smoothing: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    range_params: dict[str, float] = field(default_factory=dict)

    def learn(self, layer: LayerParameters) -> None:
        """Take over what an earlier run found out in a visit."""
        if layer.smoothing:
            self.smoothing[layer.name] = layer.smoothing
        self.range_params |= layer.range_params

    def float_linears(self, job: Job) -> frozenset[str]:
        """Return the linears that disable_level leaves float."""
        fallen = fall_back_linears(self.range_params, job.settings.level)
        return fallen if job.settings.reference else whole_groups(fallen, job.quantized)


class _Pass:
    """One pass of some streams over the layers, and this rank's forwards in it."""

    def __init__(self, job: Job, streams: Streams, known: _Known, ticks: Ticks, ranks: Ranks) -> None:
        self._job, self._streams, self._known, self._ticks, self._ranks = job, streams, known, ticks, ranks
        self._structures: set[tuple[tuple[str, type], ...]] = set()  # of layers, whose smoothing was checked
        self._freed = FreedMemory(job.model.layer_bytes)
        self._samples = _shares(streams, ranks)

    def visits(self, parts: Sequence[str], journal: Journal, done: int) -> Iterator[LayerParameters]:
        """Yield what each layer's visit finds out, but for the first `done`; within the yield its weights are loaded."""
        if done == len(parts):
            return
        job, model = self._job, self._job.model
        kept = journal.outputs([_key(sample) for sample in self._samples]) if done else []
        # Copied out of the file, to lie as a layer's own would: kernels may go by that.
        outputs = each_tensor(lambda tensor: tensor.to(model.device, copy=True), kept)
        inputs = [job.samples[position].inputs(model.device) for _, position in self._samples]
        layers = list(model.layers.values())
        self._last, self._float_linears = len(parts) - 1, self._known.float_linears(job)
        forwards = LayerSynchronousForwards(model.model, layers, inputs, skipped=done, outputs=outputs)
        self._patient = PatientLayers(layers[done:], model.device)
        with model.evaluating(), self._patient, forwards as self._forwards:
            with model.loaded(model.before_layers):
                self._forwards.start()
            if done:
                journal.require_same(self._forwards.arguments)
            for self._index, part in enumerate(parts[done:], start=done):
                with model.loaded(model.needed(part)):
                    for following in parts[self._index + 1 : self._index + 2]:
                        model.read_ahead(model.needed(following))
                    yield self._visit(part)
                self._ticks.layer_ends(model.nbytes(*model.needed(part)))

    def boundary(self) -> tuple[dict[str, Any], Any]:
        """Return what each forward got from the layer at hand, and the arguments of the first one's next call."""
        if self._index == self._last:
            return {}, None
        outputs = {_key(sample): output for sample, output in zip(self._samples, self._forwards.outputs)}
        return outputs, self._forwards.arguments

    def _visit(self, part: str) -> LayerParameters:
        """Take the streams through a layer and return what was seen."""
        self._smooth(part)
        range_params, smoothing = self._measure(part), self._known.smoothing.get(part, {})
        self._known.range_params |= range_params
        if not self._streams.calibration:
            return LayerParameters(part, smoothing=smoothing, range_params=range_params)
        return replace(self._calibrate(part), smoothing=smoothing, range_params=range_params)

    def _smooth(self, part: str) -> None:
        known, model = self._known.smoothing, self._job.model
        run = partial(self._advance, "smoothing")
        if part not in model.layers:
            run(None)
        elif self._streams.smoothing:
            structure = tuple((name, type(each)) for name, each in model.layers[part].named_modules())
            new = structure not in self._structures
            known[part] = find_smoothing(model, part, self._job.settings, run, self._ranks, checked=new)
            self._structures.add(structure)
        if part in known and not model.resident:
            smooth(model, part, self._job.settings.anti_method, known[part])

    def _measure(self, part: str) -> dict[str, float]:
        """Return range_param by linear, where it is asked for."""
        if not self._streams.features:
            return {}
        linears, observer = self._linears(part), RangeParam(in_float32=not self._job.settings.reference)
        with LinearInputs(linears, dict.fromkeys(linears, observer)) as inputs:
            self._advance("features", inputs)
        return {name: seen.value() for name, seen in self._ranks.merged(inputs.observers).items()}

    def _calibrate(self, part: str) -> LayerParameters:
        """Take the calibration stream through a layer and return its ranges."""
        job, model = self._job, self._job.model
        linears = {
            name: each for name, each in self._linears(part).items() if name not in self._float_linears
        }
        attentions = {name: each for name, each in model.attentions(part).items() if name in job.attentions}
        observers = input_observers(job.settings, list(linears), self._known.range_params)
        with LayerObservation(observers, linears, attentions, job.settings) as observation:
            self._advance("calibration", observation)
        return observation.parameters(part, self._ranks)

    def _linears(self, part: str) -> dict[str, nn.Linear]:
        quantized = self._job.quantized
        return {name: each for name, each in self._job.model.linears(part).items() if name in quantized}

    def _advance(self, stream: str, watcher: LinearInputs | LayerObservation | None) -> None:
        """Take a stream through the layer at hand; the watcher is told each sample's mask before."""
        self._patient.again = watcher.again if watcher else lambda: None
        for forward, (of, position) in enumerate(self._samples):
            if of != stream:
                continue
            sample = self._job.samples[position]
            self._ticks.sample_begins(sample.tokens)
            if watcher:
                watcher.see(None if self._job.settings.reference else sample.mask)
            self._forwards.advance(forward, self._index)
            if self._index == self._last:
                self._forwards.stop(forward)
            self._freed.release_if_grown()


def _shares(streams: Streams, ranks: Ranks) -> list[tuple[str, int]]:
    """Return this rank's forwards: the stream of each, and its sample's position."""
    return [
        (stream, position)
        for stream in ("smoothing", "features", "calibration")
        for position in ranks.positions(getattr(streams, stream))
    ]


def _key(sample: tuple[str, int]) -> str:
    return "{}.{}".format(*sample)
