"""Computes from headers how much disk space a job needs: for its exports or parameters, and for its journal."""

from __future__ import annotations

from collections.abc import Sequence

from fa3cli.calibration.smoothing import wrapped_norms
from fa3cli.exports.safetensors_writer import header_room
from fa3cli.exports.targets import TARGETS
from fa3cli.quantization.dynamic_linear import dynamic_linear_layout
from fa3cli.quantization.fallback import fused_groups
from fa3cli.quantization.linear import linear_layout
from fa3cli.runs.job import Job
from fa3cli.runs.streams.stream import Stream

__all__ = ["bytes_written", "export_bytes", "journal_bytes"]

_TENSOR = 160  # bytes per tensor in the header of a calibration
_LINE = len('  "": "W8A8_DYNAMIC",\n')  # bytes per tensor in a description, without the name
_CHECKSUM = len('    "": "89abcdef",\n')  # bytes per tensor in the report, without the name
_PICKLED = 2048  # bytes per tensor in a numpy file, without the values
_ENTRY = 1 << 15  # bytes per entry of the journal, without the states


def bytes_written(job: Job) -> int:
    """Return the bytes of all files that a job writes, including those it removes at its end."""
    if not job.targets:
        smoothing = 8 * sum(job.model.shape(name)[0] for name in job.model.stored)  # one scale per channel
        return _TENSOR * len(_names(job)) + smoothing * (job.settings.anti_method != "none")
    # numpy files are made from safetensors; if those were not requested, they are removed at the end.
    export = export_bytes(job)
    numpy = export + _PICKLED * len(_names(job)) if "numpy" in job.save_types else 0
    return len(job.targets) * (export + numpy)


def export_bytes(job: Job) -> int:
    """Return an upper bound of the bytes of the safetensors and documents for one target."""
    model, norms = job.model, wrapped_norms(job.model, job.settings.anti_method)
    weights = sum(_written_bytes(job, name) for name in model.stored) + model.stored_bytes(*model.unknown)
    # In addition to the weight, counted above: its copy, and two biases in float32.
    weights += sum(model.nbytes(f"{norm}.weight") + 8 * model.shape(f"{norm}.weight")[0] for norm in norms)
    # A target may store a scale and an offset for each channel of K and V.
    channels = [f"{name}.{leaf}.weight" for name in job.attentions for leaf in ("k_proj", "v_proj")]
    weights += sum(2 * model.dtype.itemsize * model.shape(name)[0] for name in channels if name in model.stored)
    return weights + _fallback_bytes(job) + _header_bytes(job, weights) + _document_bytes(job)


def _header_bytes(job: Job, weights: int) -> int:
    """Return the bytes of the headers of all shards, each of which has room for all tensors."""
    names = _names(job)
    shards = min(1 + weights // job.part_bytes, len(names)) if job.part_bytes else 1
    return shards * header_room(names, {})


def _document_bytes(job: Job) -> int:
    """Return the bytes of the description, which is stored under two names, and of the checksums in the report."""
    return sum(2 * (len(name) + _LINE) + len(name) + _CHECKSUM for name in set(_names(job)))


def journal_bytes(job: Job, todo: Sequence[Sequence[Stream]]) -> int:
    """Return the bytes of all forwards' states after three layers, and of one journal entry per visit."""
    states = max(sum(stream.state_bytes for stream in streams) for streams in todo)
    # A commit writes a layer's states before it removes those of two layers ago.
    return 3 * states + len(todo) * (len(job.model.layers) + 1) * _ENTRY


def _names(job: Job) -> list[str]:
    """Return the names of every tensor that the largest export can hold."""
    norms = wrapped_norms(job.model, job.settings.anti_method)
    modelslim = TARGETS["modelslim"]
    return modelslim.exported_names(job.model.exported_names, job.quantized, job.attentions, norms, job.dynamic)


def _fallback_bytes(job: Job) -> int:
    """Return an upper bound of the bytes that disable_level adds: which linears stay float is known only later."""
    stored = {name for name in job.quantized if f"{name}.weight" in job.model.stored}
    # The reference's disable_level counts single linears; improved numerics let whole groups fall back.
    groups = [] if job.settings.reference else list(fused_groups(stored))
    alone = stored - {name for group in groups for name in group}
    growth = [
        sum(job.model.nbytes(f"{name}.weight") - _written_bytes(job, f"{name}.weight") for name in group)
        for group in [*groups, *([name] for name in alone)]
    ]
    # With each linear, at most its whole group falls back: the largest groups are an upper bound.
    return sum(sorted(growth, reverse=True)[: job.settings.level])


def _written_bytes(job: Job, name: str) -> int:
    """Return the bytes that a float tensor takes in the export."""
    module, _, leaf = name.rpartition(".")
    if module not in job.quantized or leaf != "weight":
        return job.model.nbytes(name)
    shape, dtype = job.model.shape(name), job.model.dtype
    if job.schemes[module].dynamic:
        layout = dynamic_linear_layout(shape, dtype)
    else:
        layout = linear_layout(shape, dtype, mm_tensor=job.settings.mm_tensor)
    return sum(tensor.nbytes for tensor in layout.values())
