"""What a run made, and the report of it that stays in the export."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fa3cli.calibration.identity import differing
from fa3cli.errors import ConflictError

__all__ = ["REPORT_FILE", "LayerResult", "Result", "read_result", "write_report"]

REPORT_FILE = "fa3_report.json"
_OF_THIS_RUN = ("output", "seconds", "already_there")


@dataclass(frozen=True)
class LayerResult:
    """What became of one decoder layer."""

    name: str
    quantized: int
    float_linears: tuple[str, ...]
    fa: bool | None
    """Whether its attention got FA3 parameters; None where it could not."""
    fa_score: float | None
    """fa_amp's score, where it was asked for: layers with the lowest fall back."""
    error: float | None = None
    """What int8 changes in it, of what it adds to the first sample's states (`layer_error`), before fa_amp chooses."""


@dataclass(frozen=True)
class Result:
    """What a run made; `already_there` if an earlier one of the same identity did."""

    output: Path
    files: tuple[str, ...]
    bytes_written: int
    samples: int
    tokens: int
    seconds: float
    layers: tuple[LayerResult, ...]
    warnings: tuple[str, ...] = ()
    already_there: bool = False


def write_report(folder: Path, identity: dict[str, Any] | None, recipe: str, result: Result) -> None:
    """Write what was made, from what, into the export: nothing that differs when the same is made again."""
    made = {name: value for name, value in asdict(result).items() if name not in _OF_THIS_RUN}
    report = {"identity": identity, "recipe": recipe, "result": made}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def read_result(output: Path, identity: dict[str, Any]) -> Result | None:
    """Return the result of the run that made `output`, if it is the export of this identity; None if it is none.

    Raises ConflictError where it is another export, naming what differs, or where a file of it is gone.
    """
    try:
        report = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        made_of, stored = dict(report["identity"]), report["result"]
        layers = tuple(
            LayerResult(**layer | {"float_linears": tuple(layer["float_linears"])})
            for layer in stored["layers"]
        )
        lists = {key: tuple(stored[key]) for key in ("files", "warnings")}
        this = {"output": output, "layers": layers, "seconds": 0.0, "already_there": True}
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
