"""Computes from headers the bytes of a loaded layer, of one sample's forward through it, and of waiting samples.

Weights that are used in their stored dtype are pages of mapped files: the system can free them at any time, so they are
not counted.
"""

from __future__ import annotations

from torch import Tensor

from fa3cli.calibration.smoothing_groups import groups_of
from fa3cli.quantization.anti_outlier.group import Group
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.schemes import is_expert
from fa3cli.runs.job import Job
from fa3cli.samples.sample import AnySample

__all__ = [
    "FLOAT32",
    "cast_bytes",
    "error_bytes",
    "forward_bytes",
    "hidden_size",
    "loaded_bytes",
    "matrix_shapes",
    "smoothed_groups",
    "waiting_bytes",
    "weight_count",
]

FLOAT32 = 4
_EXPERTS = 8  # per token, the usual maximum


def loaded_bytes(job: Job, part: str) -> int:
    """Return the bytes of a loaded part: tensors that are cast, and the copies of smoothed weights."""
    cast = cast_bytes(job, job.model.of_layer[part])
    copied = {name for group in smoothed_groups(job, part) for name in group.linears}
    copied -= {name for name in copied if cast}  # the smoothed copy replaces the cast tensor
    return cast + weight_count(job, copied) * job.model.dtype.itemsize


def waiting_bytes(job: Job, sample: AnySample) -> int:
    """Return the bytes of a sample between two layers: two states, rope's two tensors, eager's mask."""
    config, itemsize = job.model.config, job.model.dtype.itemsize
    masked = config._attn_implementation == "eager" or sample.mask is not None
    widths = 2 * (hidden_size(job) + _head_size(job))
    return sample.tokens * (widths * itemsize + 32 + masked * _length(sample) * itemsize)


def cast_bytes(job: Job, names: list[str]) -> int:
    """Return the bytes of the tensors that are copied, because they are stored in another dtype."""
    cast = set(job.model.cast_names())
    return job.model.nbytes(*(name for name in names if name in cast))


def _heads(job: Job) -> int:
    heads: int | None = getattr(job.model.config, "num_attention_heads", None)
    return heads or 1


def _head_size(job: Job) -> int:
    config = job.model.config
    size: int | None
    try:
        size = config.head_dim
    except Exception:  # noqa: BLE001 - absent, or a property that raises because it differs by layer
        size = None
    return size or hidden_size(job) // _heads(job)


def matrix_shapes(job: Job, part: str) -> list[tuple[int, ...]]:
    """Return the shapes of the matrices that one token is multiplied with; only a token's own experts count."""
    matrices = [name for name in job.model.of_layer[part] if len(job.model.shape(name)) == 2]
    experts = [name for name in matrices if is_expert(name)]
    others = [name for name in matrices if name not in experts]
    # Three matrices per expert: gate, up and down.
    return [job.model.shape(name) for name in others + experts[: 3 * _EXPERTS]] or [(1, 1)]


def smoothed_groups(job: Job, layer: str) -> list[Group]:
    method = job.settings.anti_method
    if method == "none" or job.model.resident:  # a model in memory was smoothed in place
        return []
    return groups_of(job.model, layer, METHODS[method].groups)


def weight_count(job: Job, names: set[str]) -> int:
    """Return the number of weights of linears."""
    stored = {f"{name}.weight" for name in names} & set(job.model.stored)  # a shared weight counts once
    return job.model.nbytes(*stored) // job.model.dtype.itemsize


def error_bytes(job: Job) -> int:
    """Return the bytes held while the first sample runs through a layer again, quantized.

    These are its states before and after the layer, copies of the call's arguments, and float64 values for the comparison.
    """
    sample, config, itemsize = job.samples[0], job.model.config, job.model.dtype.itemsize
    states = sample.tokens * (hidden_size(job) * (3 * itemsize + 8) + 2 * _head_size(job) * itemsize)
    masked = config._attn_implementation == "eager" or sample.mask is not None
    return states + masked * sample.tokens * _length(sample) * itemsize


def forward_bytes(job: Job, part: str) -> int:
    """Return the bytes of the longest sample's forward: every linear's output, and observers in float32."""
    model, config, itemsize = job.model, job.model.config, job.model.dtype.itemsize
    longest = max(job.samples, key=lambda sample: sample.tokens)
    widths = matrix_shapes(job, part)
    outputs, widest = sum(rows for rows, _ in widths), max(map(max, widths))
    states = longest.tokens * (outputs * itemsize + 3 * widest * FLOAT32)
    if config._attn_implementation != "eager" or part == model.head:
        return states
    # Attention scores, their softmax in float32, and the softmax in the model's dtype.
    length = _length(longest)
    return states + longest.tokens * length * _heads(job) * (2 * itemsize + FLOAT32)


def hidden_size(job: Job) -> int:
    """Return the number of channels of a state."""
    size: int = getattr(job.model.config, "hidden_size", 0)
    return size


def _length(sample: AnySample) -> int:
    ids: Tensor = sample.arguments["input_ids"]
    return ids.shape[-1]
