"""What a run will do and need, from config, headers and samples alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fa3cli.calibration.job import Job
from fa3cli.calibration.peak_memory import peak_memory
from fa3cli.calibration.smoothing import wrapped_norms
from fa3cli.calibration.streamed_model import StreamedModel
from fa3cli.calibration.streams import Streams, passes
from fa3cli.export.modelslim import exported_names
from fa3cli.quantization.fallback import fused_groups
from fa3cli.quantization.linear import linear_layout

__all__ = ["Plan", "plan"]

_PICKLED = 2048  # what a tensor in a numpy file takes beside its values
_RECORD = 1 << 15


@dataclass(frozen=True)
class Plan:
    """Settings as resolved, counts, and bytes."""

    folder: Path | None
    output: Path
    recipe: str
    settings: dict[str, Any]
    origins: Mapping[str, str]
    """Where each setting's value came from: an option, the recipe, or the default."""
    dtype: str
    layers: int
    quantized_linears: int
    """Linears that become W8A8; disable_level takes its number off them."""
    float_linears: tuple[str, ...]
    attentions: int
    samples: int
    tokens: int
    passes: tuple[Streams, ...]
    """For each pass over the weights, the forwards that run in it and what they are for."""
    bytes_read: int
    bytes_written: int
    journal_bytes: int
    """What the run keeps beside the export until it ends, to go on after whatever stops it."""
    peak_memory: int
    """Bytes above the imports that are allocated at a time, at most: mapped files, which the system can drop, are not
    counted. For save type numpy, whose files are pickled whole, all weights."""
    warnings: tuple[str, ...]
    seconds: float | None = None
    """About how long the run takes on this machine, from timing a layer; None where none was timed."""


def plan(job: Job) -> Plan:
    """Return the plan of a job."""
    model, linears, todo = job.model, job.model.linears(), passes(job)
    norms = wrapped_norms(model, job.settings.anti_method)
    written = sum(_written_bytes(job, name) for name in model.stored)
    written += sum(4 * model.nbytes(f"{norm}.weight") for norm in norms)
    written += _fallen_bytes(job)
    # header, description
    names = exported_names(model.names, job.quantized, job.attentions, norms)
    written += len(names) * 160
    return Plan(
        folder=job.folder,
        output=job.output,
        recipe=job.recipe,
        settings=asdict(job.settings),
        origins=dict(job.origins),
        dtype=str(model.dtype).removeprefix("torch."),
        layers=len(model.layers),
        quantized_linears=len(job.quantized),
        float_linears=tuple(name for name in linears if name not in job.quantized),
        attentions=len(job.attentions),
        samples=len(job.samples),
        tokens=sum(sample.tokens for sample in job.samples),
        passes=tuple(todo),
        bytes_read=_read_bytes(job, len(todo)),
        # numpy files are made from the safetensors, which go at the end if they were not asked for.
        bytes_written=2 * written + _PICKLED * len(names) if "numpy" in job.save_types else written,
        journal_bytes=_journal_bytes(job, todo),
        peak_memory=max(peak_memory(job, todo), written if "numpy" in job.save_types else 0),
        warnings=tuple(_warnings(job)),
    )


def _journal_bytes(job: Job, todo: Sequence[Streams]) -> int:
    """Return the bytes of the states of all forwards at two borders of layers, and of a record a visit."""
    hidden = getattr(job.model.config, "hidden_size", 0) * job.model.dtype.itemsize
    tokens = [sample.tokens for sample in job.samples]
    states = max(
        sum(sum(tokens[:count]) for count in (each.smoothing, each.features, each.calibration))
        for each in todo
    )
    return 2 * states * hidden + len(todo) * (len(job.model.layers) + 1) * _RECORD


def _fallen_bytes(job: Job) -> int:
    """Return how much larger disable_level makes an export at most: which linears it leaves float is seen later."""
    stored = {name for name in job.quantized if f"{name}.weight" in job.model.stored}
    groups = [] if job.settings.reference else list(fused_groups(stored))
    alone = stored - {name for group in groups for name in group}
    growth = [
        sum(job.model.nbytes(f"{name}.weight") - _written_bytes(job, f"{name}.weight") for name in group)
        for group in [*groups, *([name] for name in alone)]
    ]
    return sum(sorted(growth, reverse=True)[: job.settings.level])


def _read_bytes(job: Job, passes: int) -> int:
    """Return the bytes of all weights, and once more for each further pass those of the parts that it visits."""
    model = job.model
    visited = [name for part in [*model.layers, *job.quantized_head] for name in model.of_layer[part]]
    return model.stored_bytes(*model.stored) + (passes - 1) * model.stored_bytes(*visited)


def _warnings(job: Job) -> Iterator[str]:
    """Yield what the user should know before the run: results some engines cannot load."""
    settings, linears = job.settings, job.model.linears()
    if isinstance(job.model, StreamedModel) and not job.model.has_weights:
        yield f"{job.folder}: no weights; names and shapes are what config.json says, and a run will need the weights"
    if any(sample.estimated for sample in job.samples):
        yield f"{job.folder}: no tokenizer; the number of tokens is estimated from the length of the text"
    if settings.fa and settings.fa_amp > len(job.attentions):
        yield f"fa_amp={settings.fa_amp}: the model has {len(job.attentions)} attention modules; all fall back"
    kept = len(job.attentions) - settings.fa_amp
    if 0 < kept < len(job.model.attentions()):
        yield "some layers stay without FA3: MindIE stops at such an export, mindie-turbo reads uninitialised memory"
    if settings.level > len(job.quantized):
        yield f"disable_level={settings.disable_level}: {len(job.quantized)} linears are quantized; all fall back"
    for group in fused_groups(linears):
        stays = [name for name in linears if name in group and name not in job.quantized]
        if 0 < len(stays) < len(group):
            yield f"{', '.join(stays)}: float, but the linears fused with them are not; {_HALF_FLOAT}"
    if settings.mm_tensor:
        yield "mm_tensor stores one weight scale a linear; the engines fa3 knows read one a row, and refuse it"
    if settings.reference and settings.level:
        yield f"disable_level counts single linears, as the reference does, and may split fused ones; {_HALF_FLOAT}"
    if isinstance(job.model, StreamedModel) and (cast := job.model.cast_names()):
        dtype = str(job.model.dtype).removeprefix("torch.")
        yield f"{cast[0]} and {len(cast) - 1} other tensors are stored in another dtype and cast to {dtype}"


_HALF_FLOAT = "vLLM-Ascend and the new MindIE runtime refuse a half-float group"


def _written_bytes(job: Job, name: str) -> int:
    """Return the bytes that become of a float tensor in the export."""
    module, _, leaf = name.rpartition(".")
    if module not in job.quantized or leaf != "weight":
        return job.model.nbytes(name)
    layout = linear_layout(job.model.shape(name), job.model.dtype, mm_tensor=job.settings.mm_tensor)
    return sum(tensor.nbytes for tensor in layout.values())
