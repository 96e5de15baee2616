"""Computes the peak memory of a run: the maximum over the phases of a layer, plus the states of waiting samples.

Weights that are used in their stored dtype are pages of mapped files: the system can free them at any time, so they are
not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from fa3cli.calibration.smoothing_groups import BLOCK, groups_of
from fa3cli.quantization.anti_outlier.group import Group
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.runs.job import Job
from fa3cli.runs.streams import Streams
from fa3cli.samples.sample import AnySample

__all__ = ["peak_memory"]

_ALWAYS = 32 << 20  # buffers of the math libraries, later imports, blocks of rows
_FLOAT32 = 4
# FreedMemory tolerates a sixteenth of a layer. Within a visit, glibc keeps holes of the size of tensors that came from
# its heap; after large frees it puts tensors of up to 32 MB there.
_KEPT_SHARE, _KEPT_TENSORS, _KEPT_MOST = 16, 4, 96 << 20
_EXPERTS = 8  # per token, the usual maximum


def peak_memory(job: Job, todo: list[Streams]) -> int:
    """Return an upper bound of the bytes allocated at a time, beyond the imports and without mapped files."""
    model = job.model
    layer = max(model.layers, key=lambda name: model.nbytes(*model.of_layer[name]))
    phases = [
        *_smoothing_phases(job, layer),
        _calibration_phase(job, layer),
        *(_cast_bytes(job, [name]) for name in model.outside),
    ]
    phases += [_calibration_phase(job, head) for head in job.quantized_head]
    waiting = max(sum(_waiting_bytes(job, count) for count in _counts(streams)) for streams in todo)
    return _ALWAYS + max(phases) + waiting + _freed_bytes(job, layer)


def _freed_bytes(job: Job, layer: str) -> int:
    """Return the bytes of freed memory that glibc keeps: holes of the size of the largest temporary tensor."""
    model = job.model
    copied = job.settings.reference or _smoothed(job, layer) or _cast_bytes(job, model.of_layer[layer])
    tensors = [{name} for name in model.linears(layer)]
    if job.settings.anti_method != "none" and METHODS[job.settings.anti_method].multiplies_all:
        tensors += [
            set(group.linears) for group in _smoothed(job, layer)
        ]  # the search joins them into one matrix
    weights = max(map(partial(_weight_count, job), tensors), default=0)
    states = (
        max(sample.tokens for sample in job.samples) * max(map(max, _matrix_shapes(job, layer))) * _FLOAT32
    )
    largest = max(weights * (_FLOAT32 if copied else 1), states)
    return model.layer_bytes // _KEPT_SHARE + min(_KEPT_TENSORS * largest, _KEPT_MOST)


def _matrix_shapes(job: Job, part: str) -> list[tuple[int, ...]]:
    """Return the shapes of the matrices that one token is multiplied with; only a token's own experts count."""
    matrices = [name for name in job.model.of_layer[part] if len(job.model.shape(name)) == 2]
    experts = [name for name in matrices if ".experts." in name]
    others = [name for name in matrices if name not in experts]
    return [job.model.shape(name) for name in others + experts[: 3 * _EXPERTS]] or [(1, 1)]


def _counts(streams: Streams) -> tuple[int, int, int]:
    return streams.smoothing, streams.features, streams.calibration


def _cast_bytes(job: Job, names: list[str]) -> int:
    """Return the bytes of the tensors that are copied, because they are stored in another dtype."""
    cast = set(job.model.cast_names())
    return job.model.nbytes(*(name for name in names if name in cast))


def _waiting_bytes(job: Job, count: int) -> int:
    """Return the bytes of the first `count` samples between two layers: two states, rope's two tensors, eager's mask."""
    config, itemsize = job.model.config, job.model.dtype.itemsize
    hidden, head = _hidden_size(job), _head_size(job)
    total = 0
    for sample in job.samples[:count]:
        length = _length(sample)
        masked = config._attn_implementation == "eager" or sample.mask is not None
        total += sample.tokens * (2 * (hidden + head) * itemsize + 32 + masked * length * itemsize)
    return total


def _hidden_size(job: Job) -> int:
    size: int = getattr(job.model.config, "hidden_size", 0)
    return size


def _heads(job: Job) -> int:
    heads: int | None = getattr(job.model.config, "num_attention_heads", None)
    return heads or 1


def _length(sample: AnySample) -> int:
    ids: Tensor = sample.arguments["input_ids"]
    return ids.shape[-1]


def _head_size(job: Job) -> int:
    config = job.model.config
    size: int | None
    try:
        size = config.head_dim
    except Exception:  # noqa: BLE001 - absent, or a property that raises because it differs by layer
        size = None
    return size or _hidden_size(job) // _heads(job)


def _smoothed(job: Job, layer: str) -> list[Group]:
    method = job.settings.anti_method
    if method == "none" or job.model.resident:  # a model in memory was smoothed in place
        return []
    return groups_of(job.model, layer, METHODS[method].groups)


def _weight_count(job: Job, names: set[str]) -> int:
    """Return the number of weights of linears."""
    stored = {f"{name}.weight" for name in names} & set(job.model.stored)  # a shared weight counts once
    return job.model.nbytes(*stored) // job.model.dtype.itemsize


def _smoothing_phases(job: Job, layer: str) -> Iterator[int]:
    """Yield the bytes of each group's search, and of comparing the smoothed layer with the original."""
    model, groups, itemsize = job.model, _smoothed(job, layer), job.model.dtype.itemsize
    if not groups or job.smoothing:
        return
    method = METHODS[job.settings.anti_method]
    kept = job.samples[: method.keep]
    tokens = sum(sample.tokens for sample in kept)
    multiplied = tokens if method.multiplies_all else max((sample.tokens for sample in kept), default=0)
    loaded = _cast_bytes(job, model.of_layer[layer])
    widths = [model.shape(f"{group.linears[0]}.weight")[1] for group in groups]
    held = loaded + tokens * sum(widths) * itemsize
    computes = itemsize if job.settings.reference else _FLOAT32
    for group, width in zip(groups, widths):
        weights = _weight_count(job, set(group.linears))
        rows, copies = weights // width, method.copies
        if not job.settings.reference:
            weights, copies = min(weights, BLOCK), 1 + method.copies
        values = tokens * width * (computes != itemsize) + multiplied * (3 * width + 4 * rows)
        yield held + (copies * weights + values) * computes
    changed = {name for group in groups for name in group.linears}
    yield loaded + _weight_count(job, changed) * itemsize + _forward_bytes(job, layer)


def _calibration_phase(job: Job, part: str) -> int:
    """Return the bytes of a loaded part while samples run or it is quantized; smoothed and fake weights are copies."""
    model, itemsize = job.model, job.model.dtype.itemsize
    cast = _cast_bytes(job, model.of_layer[part])
    copied = {name for group in _smoothed(job, part) for name in group.linears}
    copied -= {name for name in copied if cast}  # the smoothed copy replaces the cast tensor
    linears = set(model.linears(part))
    loaded = cast + _weight_count(job, copied) * itemsize
    fake = _weight_count(job, linears & job.quantized) * itemsize if job.settings.reference else 0
    forward, error = _forward_bytes(job, part), _error_bytes(job) if part in model.layers else 0
    quantizing = max((_weight_count(job, {name}) for name in linears), default=0)
    return loaded + max(fake + forward, forward + error, quantizing)


def _error_bytes(job: Job) -> int:
    """Return the bytes held while the first sample runs through a layer again, quantized.

    These are its states before and after the layer, copies of the call's arguments, and float64 values for the comparison.
    """
    sample, config, itemsize = job.samples[0], job.model.config, job.model.dtype.itemsize
    states = sample.tokens * (_hidden_size(job) * (3 * itemsize + 8) + 2 * _head_size(job) * itemsize)
    masked = config._attn_implementation == "eager" or sample.mask is not None
    return states + masked * sample.tokens * _length(sample) * itemsize


def _forward_bytes(job: Job, part: str) -> int:
    """Return the bytes of the longest sample's forward: every linear's output, and observers in float32."""
    model, config, itemsize = job.model, job.model.config, job.model.dtype.itemsize
    longest = max(job.samples, key=lambda sample: sample.tokens)
    widths = _matrix_shapes(job, part)
    outputs, widest = sum(rows for rows, _ in widths), max(map(max, widths))
    states = longest.tokens * (outputs * itemsize + 3 * widest * _FLOAT32)
    if config._attn_implementation != "eager" or part == model.head:
        return states
    # Attention scores, their softmax in float32, and the softmax in the model's dtype.
    length = _length(longest)
    return states + longest.tokens * length * _heads(job) * (2 * itemsize + _FLOAT32)
