"""Runs one pass over the layers: visits each layer with the pass's samples, and returns what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from fa3cli.calibration.layer_error import layer_error
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import Ranks
from fa3cli.calibration.replayed_forwards import ReplayedForwards
from fa3cli.calibration.smoothing import find_smoothing, smooth
from fa3cli.models.memory import FreedMemory
from fa3cli.models.out_of_memory import CpuFallback
from fa3cli.models.tensor_tree import map_tensors
from fa3cli.observers.range_param import RangeParam
from fa3cli.quantization.fallback import fall_back_linears, whole_groups
from fa3cli.quantization.input_observers import input_observers
from fa3cli.runs.job import Job
from fa3cli.runs.journal import Journal
from fa3cli.runs.progress import Ticks
from fa3cli.runs.streams import Streams, own_forwards
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["Findings", "LayerPass"]


@dataclass
class Findings:
    """The results of the visits so far: AntiOutlier's scales by layer, range_param by linear."""

    smoothing: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    range_params: dict[str, float] = field(default_factory=dict)

    def add(self, layer: LayerParameters) -> None:
        """Add the results of a visit in an earlier run."""
        if layer.smoothing:
            self.smoothing[layer.name] = layer.smoothing
        self.range_params |= layer.range_params

    def float_linears(self, job: Job) -> frozenset[str]:
        """Return the linears that disable_level leaves float."""
        fallen = fall_back_linears(self.range_params, job.settings.level)
        return fallen if job.settings.reference else whole_groups(fallen, job.quantized)


class LayerPass:
    """One pass of streams of samples over the layers, with this rank's forwards."""

    def __init__(self, job: Job, streams: Streams, findings: Findings, ticks: Ticks, ranks: Ranks) -> None:
        self._job, self._streams, self._findings, self._ticks, self._ranks = (
            job,
            streams,
            findings,
            ticks,
            ranks,
        )
        self._structures: set[tuple[tuple[str, type], ...]] = (
            set()
        )  # structures of the layers whose smoothing was checked
        self._freed = FreedMemory(job.model.layer_bytes)
        self._samples = own_forwards(streams, ranks)

    def visits(self, parts: Sequence[str], journal: Journal, done: int) -> Iterator[LayerParameters]:
        """Visit all layers but the first `done` and yield their parameters, with the layer's weights loaded."""
        if done == len(parts):
            return
        model = self._job.model
        self._last, self._float_linears = len(parts) - 1, self._findings.float_linears(self._job)
        self._fallback = CpuFallback(list(model.layers.values())[done:], model.device)
        with model.evaluating(), self._fallback, self._started_forwards(journal, done) as self._forwards:
            for self._index, part in enumerate(parts[done:], start=done):
                with model.loaded(model.needed(part)):
                    for following in parts[self._index + 1 : self._index + 2]:
                        model.read_ahead(model.needed(following))
                    yield self._visit(part)
                self._ticks.layer_ends(model.nbytes(*model.needed(part)))

    @contextmanager
    def _started_forwards(
        self, journal: Journal, done: int
    ) -> Iterator[LayerSynchronousForwards | ReplayedForwards]:
        """Start this rank's forwards, and suspend them before the first layer that is not done."""
        job, model = self._job, self._job.model
        if job.replayed:
            samples = {_forward_key(sample): job.samples[sample[1]] for sample in self._samples}
            with model.loaded(model.before_layers):
                yield ReplayedForwards(model, samples, journal.states())
            return
        kept = journal.outputs([_forward_key(sample) for sample in self._samples]) if done else []
        # Copied: kernels may depend on alignment and strides, which differ in the mapped file.
        outputs = map_tensors(lambda tensor: tensor.to(model.device, copy=True), kept)
        inputs = [job.samples[position].inputs(model.device) for _, position in self._samples]
        layers = list(model.layers.values())
        forwards = LayerSynchronousForwards(model.model, layers, inputs, skipped=done, outputs=outputs)
        del kept, outputs  # the forwards own them now, and release them layer by layer
        with forwards:
            with model.loaded(model.before_layers):
                forwards.start()
            if done:
                journal.require_same(forwards.arguments)
            yield forwards

    def boundary(self) -> tuple[dict[str, Any], Any]:
        """Return each forward's output of the current layer, and the arguments of the first forward's next layer call."""
        if self._index == self._last:
            return {}, None
        outputs = {
            _forward_key(sample): output for sample, output in zip(self._samples, self._forwards.outputs)
        }
        return outputs, self._forwards.arguments

    def _visit(self, part: str) -> LayerParameters:
        """Run the streams through a layer and return its parameters."""
        self._smooth(part)
        range_params, smoothing = self._measure(part), self._findings.smoothing.get(part, {})
        self._findings.range_params |= range_params
        if not self._streams.calibration:
            return LayerParameters(part, smoothing=smoothing, range_params=range_params)
        return replace(self._calibrate(part), smoothing=smoothing, range_params=range_params)

    def _smooth(self, part: str) -> None:
        scales, model = self._findings.smoothing, self._job.model
        run = partial(self._advance, "smoothing")
        if part not in model.layers:
            run(None)
        elif self._streams.smoothing:
            structure = tuple((name, type(module)) for name, module in model.layers[part].named_modules())
            new = structure not in self._structures
            scales[part] = find_smoothing(model, part, self._job.settings, run, self._ranks, checked=new)
            self._structures.add(structure)
        if part in scales and not model.resident:
            smooth(model, part, self._job.settings.anti_method, scales[part])

    def _measure(self, part: str) -> dict[str, float]:
        """Return range_param by linear, if the settings need it."""
        if not self._streams.features:
            return {}
        linears, observer = self._linears(part), RangeParam(in_float32=not self._job.settings.reference)
        with LinearInputs(linears, dict.fromkeys(linears, observer)) as inputs:
            self._advance("features", inputs)
        return {name: seen.value() for name, seen in self._ranks.merged(inputs.observers).items()}

    def _calibrate(self, part: str) -> LayerParameters:
        """Run the calibration stream through a layer and return its ranges, and its error on the first sample."""
        job, model = self._job, self._job.model
        linears = {
            name: linear for name, linear in self._linears(part).items() if name not in self._float_linears
        }
        attentions = {
            name: module for name, module in model.attentions(part).items() if name in job.attentions
        }
        observers = input_observers(job.settings, list(linears), self._findings.range_params)
        # The first sample, on which the error is measured, belongs to the leading rank.
        call = RecordedCall(model.layers[part]) if part in model.layers and self._ranks.leads else None
        with (
            LayerObservation(observers, linears, attentions, job.settings) as observation,
            call or nullcontext(),
        ):
            self._advance("calibration", observation)
        found = observation.parameters(part, self._ranks)
        error = layer_error(call, model.model, found, job.settings, job.samples[0].mask) if call else None
        return replace(found, error=self._ranks.first(error))

    def _linears(self, part: str) -> dict[str, nn.Linear]:
        quantized = self._job.quantized
        return {name: linear for name, linear in self._job.model.linears(part).items() if name in quantized}

    def _advance(self, stream: str, watcher: LinearInputs[Any] | LayerObservation | None) -> None:
        """Run a stream through the current layer; `watcher.see` gets each sample's mask first."""
        self._fallback.discard_sample = watcher.discard_sample if watcher else lambda: None
        for forward, (of, position) in enumerate(self._samples):
            if of != stream:
                continue
            sample = self._job.samples[position]
            self._ticks.sample_begins(sample.tokens)
            if watcher:
                watcher.see(None if self._job.settings.reference else sample.mask, sample.timestep)
            self._forwards.advance(forward, self._index)
            if self._index == self._last:
                self._forwards.stop(forward)
            self._freed.release_if_grown()
        self._fallback.discard_sample = lambda: None


def _forward_key(sample: tuple[str, int]) -> str:
    return "{}.{}".format(*sample)
