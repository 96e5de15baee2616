"""Plans a run: its steps and the resources that it needs, from config, headers and samples only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.exports.geometry import read_geometry
from fa3cli.exports.limits import without_float32
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.planning.peak_memory import peak_memory
from fa3cli.quantization.float_only import LATENT_ATTENTION
from fa3cli.runs.disk_space import bytes_written, export_bytes, journal_bytes
from fa3cli.runs.job import Job
from fa3cli.runs.streams.calibration_stream import CalibrationStream
from fa3cli.runs.streams.range_param_stream import RangeParamStream
from fa3cli.runs.streams.schedule import passes
from fa3cli.runs.streams.smoothing_stream import SmoothingStream
from fa3cli.runs.streams.stream import Stream
from fa3cli.runs.target_fit import target_warnings
from fa3cli.samples.dataset import Sample

__all__ = ["Plan", "plan", "plan_warnings"]

_STREAMS = (SmoothingStream.name, RangeParamStream.name, CalibrationStream.name)


@dataclass(frozen=True)
class Plan:
    """The resolved settings of a run, and its counts and bytes."""

    folder: Path | None
    output: Path
    recipe: str
    settings: dict[str, Any]
    origins: Mapping[str, str]
    """Where each setting's value came from: an option, the recipe, or the default."""
    dtype: str
    layers: int
    quantized_linears: int
    """Linears that become int8; disable_level reduces this number later."""
    schemes: Mapping[str, int]
    """The number of them by the value that the description will give them."""
    float_linears: tuple[str, ...]
    """Linears, and other modules with a matrix such as routers, that stay float."""
    attentions: int
    samples: int
    tokens: int
    passes: tuple[Mapping[str, int], ...]
    """Per pass over the weights: the number of forwards by purpose."""
    bytes_read: int
    bytes_written: int
    journal_bytes: int
    """Bytes that the run keeps beside the export until it ends, to resume after an interruption."""
    peak_memory: int | None
    """Upper bound of the bytes allocated at a time, beyond the imports and without mapped files, which the system can free.
    For save type numpy at least all weights, since its files are pickled whole. None for a pipeline, whose samples are
    not recorded yet: about one block and the states of one sample."""
    warnings: tuple[str, ...]
    seconds: float | None = None
    """Estimated seconds of the run on this machine, from timing a layer; None if no layer was timed."""


def plan(job: Job) -> Plan:
    """Return the plan of a job."""
    model, todo = job.model, passes(job)
    matrices = dict.fromkeys([*model.linears(), *model.matrices()])
    return Plan(
        folder=job.folder,
        output=job.destination,
        recipe=job.recipe,
        settings=asdict(job.settings),
        origins=dict(job.origins),
        dtype=str(model.dtype).removeprefix("torch."),
        layers=len(model.layers),
        quantized_linears=len(job.quantized),
        schemes=dict(Counter(scheme.value for scheme in job.schemes.values())),
        float_linears=tuple(name for name in matrices if name not in job.quantized),
        attentions=len(job.attentions),
        samples=job.sample_count,
        tokens=job.token_count,
        passes=tuple(map(_counts, todo)),
        bytes_read=_read_bytes(job, len(todo)),
        bytes_written=bytes_written(job),
        journal_bytes=journal_bytes(job, todo),
        peak_memory=None if job.replayed else _peak_memory(job, todo),
        warnings=tuple(plan_warnings(job)),
    )


def _counts(streams: Sequence[Stream]) -> dict[str, int]:
    """Return the number of forwards of each stream, 0 for streams that a pass lacks."""
    return dict.fromkeys(_STREAMS, 0) | {stream.name: stream.count for stream in streams}


def _peak_memory(job: Job, todo: Sequence[Sequence[Stream]]) -> int:
    return max(peak_memory(job, todo), export_bytes(job) if "numpy" in job.save_types else 0)


def _read_bytes(job: Job, passes: int) -> int:
    """Return the bytes of all weights, plus for each further pass the bytes of the parts that it visits."""
    model = job.model
    visited = [name for part in [*model.layers, *job.quantized_head] for name in model.of_layer[part]]
    return model.stored_bytes(*model.stored) + (passes - 1) * model.stored_bytes(*visited)


def plan_warnings(job: Job, found: Sequence[LayerParameters] | None = None) -> Iterator[str]:
    """Yield warnings before a run, or before an export of the parameters that a run `found`."""
    settings = job.settings
    yield from target_warnings(job, found)
    if not job.quantized:
        yield "no linear becomes W8A8: fa3 quantizes torch's linears, and all linears of this model stay float"
    if isinstance(job.model, StreamedModel) and not job.model.has_weights:
        yield f"{job.folder}: no weights; names and shapes are from config.json, and a run will need the weights"
    if any(isinstance(sample, Sample) and sample.estimated for sample in job.samples):
        yield f"{job.folder}: no tokenizer; the number of tokens is estimated from the length of the text"
    if settings.fa and settings.fa_amp > len(job.attentions):
        yield f"fa_amp={settings.fa_amp}: the model has {len(job.attentions)} attention modules; all fall back"
    if settings.level > len(job.quantized):
        yield f"disable_level={settings.disable_level}: {len(job.quantized)} linears are quantized; all fall back"
    if latent := [name for name in job.model.attentions() if job.disabled.get(name) == LATENT_ATTENTION]:
        yield (
            f"{_first_of(latent)} latent attention (MLA), and FA3 is not applied there, "
            "since engines want the scales of the absorbed q and of the latent state"
        )
    if unknown := job.model.unknown:
        yield f"{_first_of(unknown, 'tensor')} not of the model that transformers builds, and copied unchanged"
    if cast := job.model.cast_names():
        dtype = str(job.model.dtype).removeprefix("torch.")
        refusing = without_float32(target.name for target in job.targets)
        float32 = read_geometry(dict(job.config)).dtype == "float32"
        why = f", since no engine serves float32 for target {', '.join(refusing)}" if refusing and float32 else ""
        yield f"{_first_of(cast, 'tensor')} stored in another dtype and cast to {dtype}{why}"


def _first_of(names: Sequence[str], noun: str = "") -> str:
    """Return the first name and the number of the others, as the subject of a sentence: `a is`, `a and 2 others are`."""
    others = len(names) - 1
    if not others:
        return f"{names[0]} is"
    kind = f"other {noun}{'s' * (others > 1)}" if noun else f"other{'s' * (others > 1)}"
    return f"{names[0]} and {others} {kind} are"
