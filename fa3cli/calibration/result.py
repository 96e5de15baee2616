"""What a run made, and the report of it that stays in the export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fa3cli.calibration.identity import differing
from fa3cli.calibration.job import Job
from fa3cli.errors import ConflictError

__all__ = [
    "PARAMETERS_FILE",
    "REPORT_FILE",
    "LayerResult",
    "Result",
    "file_sha256",
    "make_result",
    "read_report",
    "read_result",
    "write_reports",
]

REPORT_FILE = "fa3_report.json"
PARAMETERS_FILE = "fa3_parameters.safetensors"
_OF_THIS_RUN = ("output", "seconds", "already_there")


@dataclass(frozen=True)
class LayerResult:
    """What became of one decoder layer."""

    name: str
    quantized: int
    float_linears: Mapping[str, str]
    """Why each of these linears stayed float."""
    fa: bool | None
    """Whether its attention got FA3 parameters; None where it could not."""
    fa_reason: str | None
    """Why it did not, if it could have."""
    fa_score: float | None
    """fa_amp's score, where it was asked for: layers with the lowest fall back."""
    error: float | None
    """What int8 changes in it, of what it adds to the first sample's states (`layer_error`), before fa_amp chooses."""
    timesteps: tuple[dict[str, float], ...] = ()
    """The largest bound of q's, k's and v's recall windows at each timestep of the sampling, where that is known."""


@dataclass(frozen=True)
class Result:
    """What a run made, files by their path in `output`; `already_there` if an earlier one of the same identity did."""

    output: Path
    files: tuple[str, ...]
    bytes_written: int
    samples: int
    tokens: int
    seconds: float
    layers: tuple[LayerResult, ...]
    warnings: tuple[str, ...] = ()
    already_there: bool = False


def make_result(
    job: Job, export: Path, seconds: float, layers: Sequence[LayerResult], warnings: Sequence[str]
) -> Result:
    """Return what a job has made in the folder `export`."""
    files = {
        str(file.relative_to(export)): file.stat().st_size
        for file in sorted(export.rglob("*"))
        if file.is_file() and file.name != REPORT_FILE
    }
    return Result(
        output=job.output,
        files=tuple(files),
        bytes_written=sum(files.values()),
        samples=job.sample_count,
        tokens=job.token_count,
        seconds=seconds,
        layers=tuple(layers),
        warnings=tuple(warnings),
    )


def write_reports(job: Job, export: Path, identity: dict[str, Any] | None, result: Result) -> None:
    """Write what was made, from what, beside the weights for each target: nothing that differs when it is made again."""
    for target, place in job.places.items():
        folder = export / place
        files = {name: (folder / name).stat().st_size for name in _within(place, result.files)}
        made = {name: value for name, value in asdict(result).items() if name not in _OF_THIS_RUN}
        made |= {"files": list(files), "bytes_written": sum(files.values())}
        report = {"identity": identity, "recipe": job.recipe, "target": target, "result": made}
        if (folder / PARAMETERS_FILE).is_file():
            report["parameters_sha256"] = file_sha256(folder / PARAMETERS_FILE)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report in a folder; raises OSError where there is none, ValueError or TypeError where it is broken."""
    return dict(json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))


def read_result(job: Job, identity: dict[str, Any]) -> Result | None:
    """Return the result of the run that made the job's output, if it is all of this identity; None if it is none.

    Raises ConflictError where it is of another identity, naming what differs, or where a file of it is gone.
    """
    output, files, nbytes = job.output, [], 0
    try:
        for place in job.places.values():
            report = read_report(output / place)
            stored = report["result"]
            files += [str(place / name) for name in stored["files"]]
            nbytes += stored["bytes_written"]
        made_of, layers = dict(report["identity"]), tuple(map(_layer_result, stored["layers"]))
        this = {"output": output, "layers": layers, "seconds": 0.0, "already_there": True}
        lists = {"files": tuple(files), "bytes_written": nbytes, "warnings": tuple(stored["warnings"])}
        result = Result(**stored | lists | this)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if differs := differing(made_of, identity):
        raise ConflictError(
            f"{output}: holds an export made from other {', '.join(differs)}",
            hint="remove it, or choose another --output",
        )
    lost = [name for name in result.files if not (output / name).is_file()]
    if lost:
        raise ConflictError(
            f"{output}: holds this export, but {lost[0]} is gone from it",
            hint="remove it, to have it made again",
        )
    return result


def _layer_result(stored: dict[str, Any]) -> LayerResult:
    return LayerResult(**stored | {"timesteps": tuple(stored.get("timesteps", ()))})


def _within(place: Path, files: Sequence[str]) -> list[str]:
    """Return the files that lie in a folder, by their path in it."""
    return [str(Path(name).relative_to(place)) for name in files if Path(name).is_relative_to(place)]
