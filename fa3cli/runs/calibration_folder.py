"""Writes and reads a calibration folder: all parameters of a run and its identity, without weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.errors import Fa3Error, InvalidInputError
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.json_documents import is_file
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.files.documents import typed
from fa3cli.models.tree_file import read_tree, write_tree
from fa3cli.quantization.schemes import Scheme
from fa3cli.quantization.settings import QuantSettings, pairs, resolve_settings
from fa3cli.runs.job import Job
from fa3cli.runs.result import PARAMETERS_FILE, file_sha256, read_report

__all__ = ["Calibration", "CalibrationWriter", "read_calibration", "require_complete"]


@dataclass(frozen=True)
class Calibration:
    """The parameters of all layers, and the identity, recipe and sample counts of the run that found them."""

    folder: Path
    identity: Mapping[str, Any]
    settings: QuantSettings
    dtype: str
    recipe: str
    samples: int
    tokens: int
    layers: tuple[LayerParameters, ...]
    transformers: str
    """The transformers version that the run used."""


@dataclass(frozen=True)
class _Counts:
    """Numbers of samples and tokens that a run calibrated on."""

    samples: int
    tokens: int


@dataclass(frozen=True)
class _Report:
    """The fields that are read from a calibration's report."""

    identity: dict[str, Any]
    result: _Counts
    recipe: str
    parameters_sha256: str


@dataclass(frozen=True)
class _Identity:
    """The fields that an export reads from a calibration's identity."""

    settings: dict[str, Any]
    dtype: Literal["torch.bfloat16", "torch.float16", "torch.float32"]
    versions: dict[str, str]


class CalibrationWriter:
    """Writes the parameters of a run, and no export; until the run ends, the journal holds them per layer."""

    def __init__(self, job: Job, folder: RunFolder, ranks: Ranks = ALONE, *, resumed: bool = False) -> None:
        self._folder, self._ranks = folder, ranks

    def add(self, layer: LayerParameters) -> dict[str, str]:
        """Do nothing, and return no warnings."""
        return {}

    def close(self, layers: Sequence[LayerParameters], float_attentions: Collection[str]) -> dict[str, dict[str, str]]:
        """Write all layers, and return no checksums."""
        if self._ranks.leads:
            tree = [{field.name: getattr(layer, field.name) for field in fields(layer)} for layer in layers]
            write_tree(self._folder.export / PARAMETERS_FILE, tree)
        return {}


def read_calibration(folder: Path) -> Calibration:
    """Return the calibration in a folder; raises InvalidInputError if files are missing or not as fa3 wrote them."""
    file = folder / PARAMETERS_FILE
    for needed in (file, folder / REPORT_FILE):
        if not is_file(needed):
            raise InvalidInputError(f"{needed}: missing", hint="give a folder that fa3 calibrate wrote")
    try:
        report = typed(read_report(folder), _Report)
        identity = typed(report.identity, _Identity)
        layers = typed(read_tree(file), tuple[LayerParameters, ...])
        # The two files may be from different runs, if a user copied one of them.
        if report.parameters_sha256 != file_sha256(file):
            raise ValueError(f"{REPORT_FILE} belongs to other parameters")
        return Calibration(
            folder=folder,
            identity=report.identity,
            settings=_settings(identity.settings),
            dtype=identity.dtype.removeprefix("torch."),
            recipe=report.recipe,
            samples=report.result.samples,
            tokens=report.result.tokens,
            layers=layers,
            transformers=identity.versions["transformers"],
        )
    # Fa3Error, too: the hint of read_tree is about --resume, which does not help here.
    except (Fa3Error, OSError, ValueError, KeyError) as error:
        raise InvalidInputError(
            f"{folder}: not a calibration as this version of fa3 writes it ({error})", hint="run fa3 calibrate again"
        ) from error


def require_complete(job: Job, found: Calibration) -> None:
    """Raise InvalidInputError if a calibration does not cover exactly the job's layers, or holds an invalid range."""
    parts = [*job.model.layers, *job.quantized_head]
    named = [layer.name for layer in found.layers]
    if named != parts:
        differing = next((name for name in (*parts, *named) if named.count(name) != parts.count(name)), "their order")
        raise InvalidInputError(
            f"{found.folder}: its layers are not the model's ({differing})", hint="run fa3 calibrate again"
        )
    for layer in found.layers:
        wrong = [*(layer.linears.keys() - job.quantized), *(layer.attentions.keys() - job.attentions)]
        wrong += [name for name, found in layer.linears.items() if not _is_input(found, job.schemes.get(name))]
        wrong += [name for name, roles in layer.attentions.items() if not _are_roles(roles)]
        wrong += [
            name for name, roles in layer.channels.items() if not _are_channels(roles, layer.attentions.get(name))
        ]
        if wrong:
            raise InvalidInputError(f"{found.folder}: invalid parameters of {wrong[0]}", hint="run fa3 calibrate again")


def _is_input(found: Range | None, scheme: Scheme | None) -> bool:
    """Tell whether these are the parameters of a linear's input: none if it is quantized at run time."""
    if found is None or scheme is None:
        return found is None and scheme is not None and scheme.dynamic
    return not scheme.dynamic and _is_range(*found)


def _are_roles(roles: Mapping[str, Range]) -> bool:
    """Tell whether these are valid ranges of q, k and v, one value per head."""
    return roles.keys() == set("qkv") and all(_is_range(low, high, low.numel()) for low, high in roles.values())


def _are_channels(channels: Mapping[str, Tensor], ranges: Mapping[str, Range] | None) -> bool:
    """Tell whether these are largest values of K and V, `[H, D]`, of an attention module with these ranges `[H]`."""
    return (
        ranges is not None
        and channels.keys() <= set("kv")
        and all(
            peak.dim() == 2 and len(peak) == len(ranges[role][0]) and peak.is_floating_point() and _is_size(peak)
            for role, peak in channels.items()
        )
    )


def _is_size(values: Tensor) -> bool:
    return bool(values.isfinite().all() and (values >= 0).all())


def _is_range(low: Tensor, high: Tensor, count: int = 1) -> bool:
    """Tell whether these are `count` lowest and highest values, finite and in order."""
    if not low.shape == high.shape == (count,) or not count or not low.is_floating_point():
        return False
    return bool(low.isfinite().all() and high.isfinite().all() and (low <= high).all())


def _settings(values: Mapping[str, Any]) -> QuantSettings:
    # Checked before resolve_settings, which would raise TypeError for an unknown name.
    if unknown := values.keys() - {field.name for field in fields(QuantSettings)}:
        raise ValueError(f"{min(unknown)!r} is not a setting")
    # A missing setting raises KeyError, which read_calibration reports: no default may replace it.
    given = {field.name: values[field.name] for field in fields(QuantSettings)} | dict(values)
    # json has no tuples.
    texts = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return resolve_settings({}, given | texts | {"schemes": pairs(given["schemes"])}).values
