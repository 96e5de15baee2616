"""Estimates how long a run takes: runs and quantizes one decoder layer with synthetic weights, and measures the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import islice

import psutil  # type: ignore[import-untyped]  # psutil has no types
import torch
from torch import nn

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.smoothing_groups import groups_of
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.planning.plan import Plan
from fa3cli.planning.rule_time import rule_seconds
from fa3cli.planning.synthetic_weights import SyntheticWeights
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.reference_linear import quantize_reference_linear
from fa3cli.runs.job import Job
from fa3cli.runs.passes import calibrate
from fa3cli.runs.streams.schedule import passes
from fa3cli.samples.dataset import Sample

__all__ = ["BYTES_PER_SECOND", "estimate_seconds"]

BYTES_PER_SECOND = 500_000_000
"""Assumed speed of reading and writing weights: a plan may have no files with which to measure the speed."""
_TOKENS = 256
_WORK = 3 << 35  # parameters x tokens of a timed forward: about one second on two cores
_SHORT = 1.0
"""If a layer took fewer seconds, the process's one-time work (imports, caches) dominates, and the layer is timed again."""


def estimate_seconds(job: Job, planned: Plan) -> float | None:
    """Return about how many seconds a run takes on this machine; None if the memory is too small to time a layer.

    One layer's time is scaled to all layers by their bytes. The time of attention grows with the square of a sample's
    length; the estimate treats it as linear.
    """
    model = job.model
    if 1.5 * model.layer_bytes > psutil.virtual_memory().available:
        return None
    took = _time_layer(job)
    if took.once < _SHORT:
        took = _time_layer(job)
    forward = took.token * sum(stream.tokens for streams in passes(job) for stream in streams)
    names = [name for part in [*model.layers, *job.quantized_head] for name in model.of_layer[part]]
    layers = model.nbytes(*names) / model.layer_bytes
    return layers * (took.once + forward) + (planned.bytes_read + planned.bytes_written) / BYTES_PER_SECOND


@dataclass(frozen=True)
class _LayerTime:
    """Seconds per layer that do not depend on the samples, and seconds per token."""

    once: float
    token: float


def _time_layer(job: Job) -> _LayerTime:
    """Run the layers up to the largest on two samples: the second sample runs with warm caches.

    `once` includes the time of the layer's error, on a sample of the same length.
    """
    trial, weights = _trial(job)
    model = trial.model
    largest = list(model.layers)[-1]
    ended = [time.perf_counter()]  # end of each layer, without the time spent on synthetic weights

    def write(layer: LayerParameters) -> dict[str, str]:
        _quantize(trial, layer)
        ended.append(time.perf_counter() - weights.seconds)
        return {}

    with _timed_calls(model.layers[largest]) as calls:
        calibrate(trial, write=write)
    calls = calls[: sum(stream.count for streams in passes(trial) for stream in streams)]
    once = ended[-1] - ended[-2] - sum(calls)
    with model.loaded(model.of_layer[largest]):
        once += rule_seconds(model, largest, job.settings, [sample.tokens for sample in job.samples])
    return _LayerTime(once, calls[-1] / trial.samples[-1].tokens)


def _trial(job: Job) -> tuple[Job, SyntheticWeights]:
    """Return the job for the layers up to the largest, with two short samples, and its synthetic weights."""
    sizes = {layer: job.model.nbytes(*names) for layer, names in job.model.of_layer.items()}
    count = 1 + max(range(len(job.model.layers)), key=[sizes[layer] for layer in job.model.layers].__getitem__)
    timed = list(islice(job.model.layers, count))
    whole = {name for layer in timed for name in job.model.of_layer[layer]}
    weights = SyntheticWeights(job.source, job.model.model, job.model.dtype, whole, job.model.published)
    model = StreamedModel(job.model.model, weights, job.model.dtype, job.model.device, published=job.model.published)
    model.layers = {layer: model.layers[layer] for layer in timed}
    trial = replace(
        job,
        model=model,
        settings=replace(job.settings, disable_level="L0"),
        samples=[_sample(job)] * 2,
        schemes={name: scheme for name, scheme in job.schemes.items() if name != job.model.head},
        smoothing={layer: _no_smoothing(model, layer, job.settings.anti_method) for layer in timed},
    )
    return trial, weights


def _sample(job: Job) -> Sample:
    """Return a sample of the mean length, or a shorter sample if a large layer would take too long."""
    mean = sum(sample.tokens for sample in job.samples) // len(job.samples)
    affordable = _WORK * job.model.dtype.itemsize // job.model.layer_bytes
    tokens = max(1, min(mean, _TOKENS, affordable))
    return Sample("synthetic", {"input_ids": torch.arange(tokens).remainder(job.model.config.vocab_size)[None]})


def _no_smoothing(model: StreamedModel, layer: str, anti_method: str) -> dict[str, torch.Tensor]:
    """Return scales of 1: applying scales takes the same time for all values; the search is timed separately."""
    if anti_method == "none":
        return {}
    return {
        group.source: torch.ones(model.shape(f"{group.linears[0]}.weight")[1], dtype=model.dtype)
        for group in groups_of(model, layer, METHODS[anti_method].groups)
    }


def _quantize(job: Job, layer: LayerParameters) -> None:
    """Quantize a layer's linears and drop the results."""
    quantize = quantize_reference_linear if job.settings.reference else quantize_linear
    model, mm_tensor = job.model, job.settings.mm_tensor
    for name, ranges in layer.linears.items():
        weight = model.tensor(f"{name}.weight").detach()
        if ranges is None:
            quantize_dynamic_linear(weight, model.dtype)
        else:
            quantize(weight, model.bias(name), *ranges, model.dtype, mm_tensor=mm_tensor)


@contextmanager
def _timed_calls(module: nn.Module) -> Iterator[list[float]]:
    """Yield the seconds of each call of a module's forward within the block; without hooks, which suspend it."""
    seconds, forward = [], module.forward

    @wraps(forward)
    def timed(*positional: object, **named: object) -> object:
        begin = time.perf_counter()
        output = forward(*positional, **named)
        seconds.append(time.perf_counter() - begin)
        return output

    module.forward = timed
    try:
        yield seconds
    finally:
        del module.forward
