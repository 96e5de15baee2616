"""What a run will do and need, from config, headers and samples alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from fa3cli.calibration.job import Job
from fa3cli.calibration.streamed_model import StreamedModel
from fa3cli.export.layout import FUSED_GROUPS
from fa3cli.export.modelslim import exported_names

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """Settings as resolved, counts, and bytes."""

    folder: Path
    output: Path
    recipe: str
    settings: dict[str, Any]
    dtype: str
    layers: int
    quantized_linears: int
    float_linears: tuple[str, ...]
    attentions: int
    samples: int
    tokens: int
    passes: int
    bytes_read: int
    bytes_written: int
    peak_memory: int
    """Bytes above the imports: the largest layer or embedding, mapped pages included, with the samples' states;
    for save type numpy, whose files are pickled whole, all weights."""
    warnings: tuple[str, ...]


def plan(job: Job) -> Plan:
    """Return the plan of a job."""
    model, linears = job.model, job.model.linears()
    tokens = [len(sample.input_ids) for sample in job.samples]
    written = sum(_written_bytes(job, name) for name in model.stored)
    written += len(exported_names(model.names, job.quantized, job.attentions)) * 160  # header, description
    held = [*model.of_layer.values(), *([name] for name in model.outside)]
    largest = max(sum(_nbytes(model, name) for name in names) for names in held)
    states = 3 * sum(tokens) * getattr(model.config, "hidden_size", 0) * model.dtype.itemsize
    return Plan(
        folder=job.folder,
        output=job.output,
        recipe=job.recipe,
        settings=asdict(job.settings),
        dtype=str(model.dtype).removeprefix("torch."),
        layers=len(model.layers),
        quantized_linears=len(job.quantized),
        float_linears=tuple(name for name in linears if name not in job.quantized),
        attentions=len(job.attentions),
        samples=len(job.samples),
        tokens=sum(tokens),
        passes=1,
        bytes_read=model.checkpoint.nbytes,
        # numpy files are made from the safetensors, which go at the end if they were not asked for.
        bytes_written=written * (2 if "numpy" in job.save_types else 1),
        peak_memory=max(largest + states, written if "numpy" in job.save_types else 0),
        warnings=tuple(_warnings(job)),
    )


def _warnings(job: Job) -> Iterator[str]:
    """Yield what the user should know before the run: results some engines cannot load."""
    if job.settings.fa and job.settings.fa_amp > len(job.attentions):
        yield f"fa_amp={job.settings.fa_amp}: the model has {len(job.attentions)} attention modules; all fall back"
    kept = len(job.attentions) - job.settings.fa_amp
    if 0 < kept < len(job.model.attentions()):
        yield "some layers stay without FA3: MindIE stops at such an export, mindie-turbo reads uninitialised memory"
    for group in _fused(job.model.linears()):
        stays = [name for name in group if name not in job.quantized]
        if 0 < len(stays) < len(group):
            yield (
                f"{', '.join(stays)}: float, but the linears it is fused with are not; "
                "vLLM-Ascend and the new MindIE runtime refuse a half-float group"
            )


def _fused(linears: Collection[str]) -> Iterator[list[str]]:
    """Yield the linears of each fused group."""
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in linears):
        for group in FUSED_GROUPS:
            yield [f"{parent}.{member}" for member in group if f"{parent}.{member}" in linears]


def _written_bytes(job: Job, name: str) -> int:
    """Return the bytes that become of a float tensor in the export."""
    module, _, leaf = name.rpartition(".")
    if module not in job.quantized or leaf != "weight":
        return _nbytes(job.model, name)
    rows, columns = job.model.checkpoint.tensors[name].shape
    deq_scale = 4 if job.model.dtype == torch.bfloat16 else 8
    return rows * (columns + 2 * job.model.dtype.itemsize + 4 + deq_scale) + 2 * job.model.dtype.itemsize


def _nbytes(model: StreamedModel, name: str) -> int:
    """Return a tensor's bytes in the dtype of the run."""
    return prod(model.checkpoint.tensors[name].shape) * model.dtype.itemsize
