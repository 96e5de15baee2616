"""A calibration on the disk: every parameter of a run and what it was made from, without weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fa3cli.calibration.job import Job
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.result import PARAMETERS_FILE, REPORT_FILE, read_report
from fa3cli.calibration.tree_file import read_tree, write_tree
from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.export.folder import RunFolder

__all__ = ["Calibration", "CalibrationWriter", "read_calibration"]


@dataclass(frozen=True)
class Calibration:
    """The parameters of all layers, the identity and recipe of the run that found them, and what it saw."""

    identity: Mapping[str, Any]
    recipe: str
    samples: int
    tokens: int
    layers: tuple[LayerParameters, ...]


class CalibrationWriter:
    """Keeps the parameters of a run instead of an export; a layer's are in the journal until all are there."""

    def __init__(self, job: Job, folder: RunFolder, ranks: Ranks = ALONE, *, resumed: bool = False) -> None:
        self._folder, self._ranks = folder, ranks

    def add(self, layer: LayerParameters) -> dict[str, str]:
        """Do nothing with a layer, and warn of nothing."""
        return {}

    def close(self, layers: Sequence[LayerParameters], fallen: Collection[str]) -> None:
        """Write all layers."""
        if self._ranks.leads:
            tree = [{field.name: getattr(layer, field.name) for field in fields(layer)} for layer in layers]
            write_tree(self._folder.export / PARAMETERS_FILE, tree)


def read_calibration(folder: Path) -> Calibration:
    """Return what fa3 calibrate wrote; raises InvalidInputError where that is not all there, or something else is."""
    file = folder / PARAMETERS_FILE
    for needed in (file, folder / REPORT_FILE):
        if not needed.is_file():
            raise InvalidInputError(f"{needed}: missing", hint="name a folder that fa3 calibrate wrote")
    try:
        report = read_report(folder)
        seen = report["result"]
        return Calibration(
            identity=dict(report["identity"]),
            recipe=str(report["recipe"]),
            samples=seen["samples"],
            tokens=seen["tokens"],
            layers=tuple(LayerParameters(**layer) for layer in read_tree(file)),
        )
    except (ConflictError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{folder}: not a calibration as this version of fa3 writes it ({error})",
            hint="run fa3 calibrate again",
        ) from error
