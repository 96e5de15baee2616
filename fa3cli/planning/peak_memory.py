"""Computes the peak memory of a run: the maximum over the phases of a layer, plus the states of waiting samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.schemes import is_expert
from fa3cli.runs.job import Job
from fa3cli.runs.streams.layer_bytes import FLOAT32, cast_bytes, matrix_shapes, smoothed_groups, weight_count
from fa3cli.runs.streams.stream import Stream

__all__ = ["peak_memory"]

_ALWAYS = 32 << 20  # buffers of the math libraries, later imports, blocks of rows
# oneDNN compiles a kernel for each shape of a matrix and number of rows, and keeps the last 1,024 of them. Each expert of a
# mixture gets another number of tokens. Measured in bfloat16: 0.56 to 0.69 MB per kernel, for small and large matrices.
_MOST_KERNELS, _KERNEL_BYTES = 1024, 768 << 10
# FreedMemory tolerates a sixteenth of a layer. Within a visit, glibc keeps holes of the size of tensors that came from
# its heap; after large frees it puts tensors of up to 32 MB there.
_KEPT_SHARE, _KEPT_TENSORS, _KEPT_MOST = 16, 4, 96 << 20


def peak_memory(job: Job, todo: Sequence[Sequence[Stream]]) -> int:
    """Return an upper bound of the bytes allocated at a time, beyond the imports and without mapped files.

    `todo` are the passes of the job, each with its streams.
    """
    model = job.model
    layer = max(model.layers, key=lambda name: model.nbytes(*model.of_layer[name]))
    streams = [stream for streams in todo for stream in streams]
    phases = [stream.peak_bytes(part) for part in (layer, *job.quantized_head) for stream in streams]
    outside = [cast_bytes(job, [name]) for name in model.outside]
    waiting = max(sum(stream.waiting_bytes for stream in streams) for streams in todo)
    return _ALWAYS + _kernel_bytes(job) + max(*phases, *outside) + waiting + _freed_bytes(job, layer)


def _kernel_bytes(job: Job) -> int:
    """Return the bytes of the kernels for experts: per shape at most one for each number of tokens in a sample."""
    shapes = {job.model.shape(f"{name}.weight") for name in job.model.linears() if is_expert(name)}
    rows = max(sample.tokens for sample in job.samples)
    return min(len(shapes) * rows, _MOST_KERNELS) * _KERNEL_BYTES


def _freed_bytes(job: Job, layer: str) -> int:
    """Return the bytes of freed memory that glibc keeps: holes of the size of the largest temporary tensor."""
    model = job.model
    copied = job.settings.reference or smoothed_groups(job, layer) or cast_bytes(job, model.of_layer[layer])
    tensors = [{name} for name in model.linears(layer)]
    if job.settings.anti_method != "none" and METHODS[job.settings.anti_method].multiplies_all:
        tensors += [
            set(group.linears) for group in smoothed_groups(job, layer)
        ]  # the search joins them into one matrix
    weights = max(map(partial(weight_count, job), tensors), default=0)
    states = max(sample.tokens for sample in job.samples) * max(map(max, matrix_shapes(job, layer))) * FLOAT32
    largest = max(weights * (FLOAT32 if copied else 1), states)
    return model.layer_bytes // _KEPT_SHARE + min(_KEPT_TENSORS * largest, _KEPT_MOST)
