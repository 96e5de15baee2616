"""Writes and reads a run's report in the export, and returns its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError
from fa3cli.exports.json_documents import is_file
from fa3cli.exports.layout import PARAMETERS_FILE, REPORT_FILE
from fa3cli.exports.targets import serve_command
from fa3cli.files.documents import parse_json, typed
from fa3cli.files.reading import LARGE, is_file_name, read_bytes
from fa3cli.runs.identity import differing
from fa3cli.runs.job import Job

__all__ = [
    "PARAMETERS_FILE",
    "LayerResult",
    "Result",
    "file_sha256",
    "make_result",
    "read_report",
    "read_result",
    "write_reports",
]

# Reports omit these fields, so that a repeated run writes the same bytes.
_NOT_REPRODUCIBLE = ("output", "seconds", "already_there", "serve")


@dataclass(frozen=True)
class LayerResult:
    """The result of one decoder layer."""

    name: str
    quantized: int
    float_linears: Mapping[str, str]
    """Why each of these linears stayed float."""
    fa: bool | None
    """Whether its attention got FA3 parameters; None if it has no patched attention."""
    fa_reason: str | None
    """The reason, if the attention stays float."""
    fa_score: float | None
    """fa_amp's score, if fa_amp is used: the layers with the lowest scores fall back."""
    error: float | None
    """Relative error of the quantized layer on the first sample (`layer_error`), before fa_amp chooses."""
    timesteps: tuple[dict[str, float], ...] = ()
    """Per timestep of the sampling: the largest bound of the recall windows of q, k and v; empty for language models."""


@dataclass(frozen=True)
class Result:
    """The result of a run, files by path in `output`; `already_there` if an earlier run of the same identity made it."""

    output: Path
    files: tuple[str, ...]
    bytes_written: int
    samples: int
    tokens: int
    seconds: float
    layers: tuple[LayerResult, ...]
    warnings: tuple[str, ...] = ()
    already_there: bool = False
    serve: Mapping[str, str | None] = field(default_factory=dict)
    """The command that serves the export of each target; None if no engine reads it."""


@dataclass(frozen=True)
class _ReportedResult:
    """The result in a report."""

    files: tuple[str, ...]
    bytes_written: int
    samples: int
    tokens: int
    layers: tuple[LayerResult, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Report:
    """The fields that are read from an earlier run's report."""

    identity: dict[str, Any]
    result: _ReportedResult


def make_result(
    job: Job, export: Path, seconds: float, layers: Sequence[LayerResult], warnings: Sequence[str]
) -> Result:
    """Return the result of a job from the files in the folder `export`."""
    files = {
        str(file.relative_to(export)): file.stat().st_size
        for file in sorted(export.rglob("*"))
        # The report holds this list, so the list cannot hold the size of the report.
        if file.is_file() and file.name != REPORT_FILE
    }
    return Result(
        output=job.destination,
        files=tuple(files),
        bytes_written=sum(files.values()),
        samples=job.sample_count,
        tokens=job.token_count,
        seconds=seconds,
        layers=tuple(layers),
        warnings=tuple(warnings),
        serve=_serve_commands(job, layers, export),
    )


def write_reports(
    job: Job,
    export: Path,
    identity: dict[str, Any] | None,
    result: Result,
    checksums: Mapping[str, Mapping[str, str]],
) -> None:
    """Write a report beside the weights of each target; it holds nothing that differs when the run is repeated.

    `checksums` has the checksum of every tensor, by target; none for a run without exports.
    """
    for target, place in job.places.items():
        folder = export / place
        files = {name: (folder / name).stat().st_size for name in _files_in(place, result.files)}
        made = {name: value for name, value in asdict(result).items() if name not in _NOT_REPRODUCIBLE}
        made |= {"files": list(files), "bytes_written": sum(files.values())}
        if target not in _storing_attention(job):
            made["layers"] = [asdict(_without_attention(layer)) for layer in result.layers]
        report: dict[str, Any] = {"identity": identity, "recipe": job.recipe, "target": target, "result": made}
        if target is not None:
            report["checksums"] = checksums[target]
        if (folder / PARAMETERS_FILE).is_file():
            report["parameters_sha256"] = file_sha256(folder / PARAMETERS_FILE)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal; the file may be larger than the memory."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report in a folder; raises OSError if it cannot be read, ValueError if it is broken."""
    text = read_bytes(folder / REPORT_FILE, LARGE).decode("utf-8")
    return typed(parse_json(text, unique=True), dict[str, Any])


def read_result(job: Job, identity: dict[str, Any]) -> Result | None:
    """Return the result of the run that made the job's output; None if the output holds no report.

    Raises ConflictError if that run had another identity, naming the differences, or if a file is missing.
    """
    output = job.destination
    try:
        reports = {place: _read_typed(output / place) for place in job.places.values()}
    # No export of fa3 is there, and RunFolder refuses an output that holds anything else.
    except (OSError, ValueError):
        return None
    *_, last = reports.values()
    # A report for a target without scales of attention does not say what the other targets hold.
    fullest = next((reports[job.places[name]] for name in _storing_attention(job)), last)
    if differs := differing(last.identity, identity):
        raise ConflictError(
            f"{output}: holds an export made from other {', '.join(differs)}",
            hint="choose another --output; or remove the export if nobody needs it any more",
        )
    files = tuple(str(place / name) for place, report in reports.items() for name in report.result.files)
    if lost := [name for name in files if not is_file(output / name)]:
        raise ConflictError(
            f"{output}: holds this export, but {lost[0]} is missing",
            hint="restore that file or choose another --output; or, if the folder holds nothing else, remove it "
            "to make the export again",
        )
    return Result(
        output=output,
        files=files,
        bytes_written=sum(report.result.bytes_written for report in reports.values()),
        samples=last.result.samples,
        tokens=last.result.tokens,
        seconds=0.0,
        layers=fullest.result.layers,
        warnings=last.result.warnings,
        already_there=True,
        serve=_serve_commands(job, fullest.result.layers, output),
    )


def _storing_attention(job: Job) -> list[str | None]:
    """Return the targets of a job, or None for a calibration, whose result holds scales of q, k or v."""
    return [target.name for target in job.targets if target.stores_attention] if job.targets else [None]


def _without_attention(layer: LayerResult) -> LayerResult:
    return replace(layer, fa=False, fa_reason="kv_cache_scheme is none") if layer.fa else layer


def _serve_commands(job: Job, layers: Sequence[LayerResult], export: Path) -> dict[str, str | None]:
    """Return the command of each target; `export` is where the files are now."""
    attentions = [layer.fa for layer in layers]
    return {
        target: serve_command(target, job.destination / place, attentions, export / place)
        for target, place in job.places.items()
        if target is not None
    }


def _read_typed(folder: Path) -> _Report:
    """Return the typed report of a run; raises the errors of `read_report`, and ValueError for wrong fields."""
    report = typed(read_report(folder), _Report)
    for name in report.result.files:
        # The report may be forged: a name in it must not lead out of the folder.
        if not all(map(is_file_name, name.split("/"))):
            raise ValueError(f"{name!a} is not a file of an export")
    return report


def _files_in(place: Path, files: Sequence[str]) -> list[str]:
    """Return the files that lie in a folder, by their path in it."""
    return [str(Path(name).relative_to(place)) for name in files if Path(name).is_relative_to(place)]
