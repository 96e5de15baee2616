"""Runs one pass over the layers: visits each layer with the pass's samples, and returns what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import Ranks
from fa3cli.calibration.replayed_forwards import ReplayedForwards
from fa3cli.models.memory import FreedMemory
from fa3cli.models.out_of_memory import CpuFallback
from fa3cli.models.tensor_tree import map_tensors
from fa3cli.runs.job import Job
from fa3cli.runs.journal import Journal
from fa3cli.runs.progress import Ticks
from fa3cli.runs.streams.findings import Findings
from fa3cli.runs.streams.schedule import own_forwards
from fa3cli.runs.streams.stream import Stream, Visit, Watcher

__all__ = ["LayerPass"]


class LayerPass:
    """One pass of streams of samples over the layers, with this rank's forwards."""

    def __init__(self, job: Job, streams: Sequence[Stream], findings: Findings, ticks: Ticks, ranks: Ranks) -> None:
        self._job, self._streams, self._findings = job, streams, findings
        self._ticks, self._ranks = ticks, ranks
        self._freed = FreedMemory(job.model.layer_bytes)
        self._samples = own_forwards(streams, ranks)

    def visits(self, parts: Sequence[str], journal: Journal, done: int) -> Iterator[LayerParameters]:
        """Visit all layers but the first `done` and yield their parameters, with the layer's weights loaded."""
        if done == len(parts):
            return
        model = self._job.model
        self._last = len(parts) - 1
        self._fallback = CpuFallback(list(model.layers.values())[done:], model.device)
        with model.evaluating(), self._fallback, self._started_forwards(journal, done) as self._forwards:
            for self._index, part in enumerate(parts[done:], start=done):
                with model.loaded(model.needed(part)):
                    # The system reads the next layer's pages while this layer computes.
                    for following in parts[self._index + 1 : self._index + 2]:
                        model.read_ahead(model.needed(following))
                    # Yielded within `loaded`: the caller writes the layer from these weights.
                    yield self._visit(part)
                self._ticks.layer_ends(model.nbytes(*model.needed(part)))

    @contextmanager
    def _started_forwards(self, journal: Journal, done: int) -> Iterator[LayerSynchronousForwards | ReplayedForwards]:
        """Start this rank's forwards, and suspend them before the first layer that is not done."""
        job, model = self._job, self._job.model
        if job.replayed:
            samples = {_forward_key(sample): job.samples[sample[1]] for sample in self._samples}
            with model.loaded(model.before_layers):
                # Loaded for all layers: each replay runs the code before the layers again.
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
                # Loaded only for the start: the suspended forwards hold the results that the layers need.
                forwards.start()
            if done:
                # Checked after start: the first forward has reached the next layer, so its arguments are known.
                journal.require_same(forwards.arguments)
            yield forwards

    def boundary(self) -> tuple[dict[str, Any], Any]:
        """Return each forward's output of the current layer, and the arguments of the first forward's next layer call."""
        # The last layer of this pass: a resumed run has no next layer to start with.
        if self._index == self._last:
            return {}, None
        outputs = {_forward_key(sample): output for sample, output in zip(self._samples, self._forwards.outputs)}
        return outputs, self._forwards.arguments

    def _visit(self, part: str) -> LayerParameters:
        """Run the streams through a part, one after the other, and return its parameters."""
        found = LayerParameters(part)
        for stream in self._streams:
            visit = Visit(part, self._findings, self._ranks, partial(self._advance, stream))
            found = stream.visit(visit, found)
        return found

    def _advance(self, stream: Stream, watcher: Watcher | None) -> None:
        """Run a stream through the current layer; `watcher.see` gets each sample's mask first."""
        # A layer's call may fail for lack of memory and run again: its sample must count once.
        self._fallback.discard_sample = watcher.discard_sample if watcher else lambda: None
        for forward, (of, position) in enumerate(self._samples):
            if of is not stream:
                continue
            sample = self._job.samples[position]
            self._ticks.sample_begins(sample.tokens)
            if watcher:
                # The reference counts padding in every statistic.
                watcher.see(None if self._job.settings.reference else sample.mask, sample.timestep)
            self._forwards.advance(forward, self._index)
            if self._index == self._last:
                # Stopped at once, since the sample's states are not needed any more.
                self._forwards.stop(forward)
            self._freed.release_if_grown()
        # Later calls of the layer (AntiOutlier's check, the layer's error) belong to no sample.
        self._fallback.discard_sample = lambda: None


def _forward_key(forward: tuple[Stream, int]) -> str:
    stream, position = forward
    return f"{stream.name}.{position}"
