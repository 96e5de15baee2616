"""About how long a run will take: one decoder layer of made-up weights, run and quantized as all will be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import islice

import psutil
import torch
from torch import nn

from fa3cli.calibration.dataset import Sample
from fa3cli.calibration.job import Job
from fa3cli.calibration.made_up_weights import MadeUpWeights
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.passes import calibrate
from fa3cli.calibration.plan import Plan
from fa3cli.calibration.rule_time import rule_seconds
from fa3cli.calibration.smoothing_groups import groups_of
from fa3cli.calibration.streamed_model import StreamedModel
from fa3cli.calibration.streams import passes
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.reference_linear import quantize_reference_linear

__all__ = ["BYTES_A_SECOND", "estimate_seconds"]

BYTES_A_SECOND = 500_000_000
"""How fast weights are taken to be read and written: a plan has no files to try it on."""
_TOKENS = 256
_WORK = 3 << 35  # parameters x tokens of a timed forward: about a second of two cores
_SHORT = 1.0
"""Seconds below which what a process does once outweighs what it does in every layer: then it is timed again."""


def estimate_seconds(job: Job, planned: Plan) -> float | None:
    """Return about how many seconds a run takes on this machine; None where a layer finds no room to be timed.

    The layer stands for all of them, by their bytes. Attention's part, which grows with the square of a sample's
    length, is taken to grow with the length.
    """
    model = job.model
    if 1.5 * model.layer_bytes > psutil.virtual_memory().available:
        return None
    took = _time_layer(job)
    if took.once < _SHORT:
        took = _time_layer(job)
    tokens = [sample.tokens for sample in job.samples]
    streams = [count for each in passes(job) for count in (each.smoothing, each.features, each.calibration)]
    forward = took.token * sum(sum(tokens[:count]) for count in streams)
    names = [name for part in [*model.layers, *job.quantized_head] for name in model.of_layer[part]]
    layers = model.nbytes(*names) / model.layer_bytes
    return layers * (took.once + forward) + (planned.bytes_read + planned.bytes_written) / BYTES_A_SECOND


@dataclass(frozen=True)
class _LayerTime:
    """Seconds a layer takes once, and for each token that passes it."""

    once: float
    token: float


def _time_layer(job: Job) -> _LayerTime:
    """Run the largest layer, and those before it, on two samples: the second finds everything warm.

    What the layer's error takes, on a sample as long, is part of what a layer takes once.
    """
    trial = _trial(job)
    model, weights = trial.model, trial.model.checkpoint
    largest = list(model.layers)[-1]
    ended = [time.perf_counter()]  # of each layer, without what making up its weights took

    def write(layer: LayerParameters) -> dict[str, str]:
        _quantize(trial, layer)
        ended.append(time.perf_counter() - weights.seconds)
        return {}

    with _timed_calls(model.layers[largest]) as calls:
        calibrate(trial, write=write)
    calls = calls[: sum(streams.forwards for streams in passes(trial))]
    once = ended[-1] - ended[-2] - sum(calls)
    with model.loaded(model.of_layer[largest]):
        once += rule_seconds(model, largest, job.settings, [sample.tokens for sample in job.samples])
    return _LayerTime(once, calls[-1] / trial.samples[-1].tokens)


def _trial(job: Job) -> Job:
    """Return the job for the layers up to the largest, with weights made up and two short samples."""
    sizes = {layer: job.model.nbytes(*names) for layer, names in job.model.of_layer.items()}
    count = 1 + max(
        range(len(job.model.layers)), key=[sizes[layer] for layer in job.model.layers].__getitem__
    )
    timed = list(islice(job.model.layers, count))
    whole = {name for layer in timed for name in job.model.of_layer[layer]}
    weights = MadeUpWeights(job.folder, job.model.model, job.model.dtype, whole)
    model = StreamedModel(job.model.model, weights, job.model.dtype, job.model.device)
    model.layers = {layer: model.layers[layer] for layer in timed}
    return replace(
        job,
        model=model,
        settings=replace(job.settings, disable_level="L0"),
        samples=[_sample(job)] * 2,
        quantized=job.quantized - {job.model.head},
        smoothing={layer: _no_smoothing(model, layer, job.settings.anti_method) for layer in timed},
    )


def _sample(job: Job) -> Sample:
    """Return a sample of the mean length, or of as many tokens as soon pass a large layer."""
    mean = sum(sample.tokens for sample in job.samples) // len(job.samples)
    soon = _WORK * job.model.dtype.itemsize // job.model.layer_bytes
    tokens = max(1, min(mean, _TOKENS, soon))
    return Sample("made up", {"input_ids": torch.arange(tokens).remainder(job.model.config.vocab_size)[None]})


def _no_smoothing(model: StreamedModel, layer: str, anti_method: str) -> dict[str, torch.Tensor]:
    """Return scales of 1: smoothing a layer takes as long whatever they are, and finding them is timed apart."""
    if anti_method == "none":
        return {}
    return {
        group.source: torch.ones(model.shape(f"{group.linears[0]}.weight")[1], dtype=model.dtype)
        for group in groups_of(model, layer, METHODS[anti_method].groups)
    }


def _quantize(job: Job, layer: LayerParameters) -> None:
    """Quantize a layer's linears and forget them."""
    quantize = quantize_reference_linear if job.settings.reference else quantize_linear
    for name, (low, high) in layer.linears.items():
        linear = job.model.model.get_submodule(name)
        bias = None if linear.bias is None else linear.bias.detach()
        quantize(linear.weight.detach(), bias, low, high, job.model.dtype, mm_tensor=job.settings.mm_tensor)


@contextmanager
def _timed_calls(module: nn.Module) -> Iterator[list[float]]:
    """Yield the seconds of each call of a module within the block, its forward alone: hooks may suspend it."""
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
