"""Chooses where a job's exports go and in which form: targets, save types, file sizes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.exports.targets import targets_named
from fa3cli.options import entries
from fa3cli.runs.options import OUTPUT_SUFFIX, SAVE_TYPES, ExportOptions, RunOptions

__all__ = ["default_output", "where_to_save"]


def default_output(folder: Path, output: str | Path | None) -> Path:
    """Return the folder of an export: `output`, or by default a folder beside the weights.

    Raises ConflictError if it is the weights folder, or a folder among the files inside the weights folder.
    """
    place = Path(os.path.abspath(output or folder.with_name(f"{folder.name}{OUTPUT_SUFFIX}")))
    # Resolved only to compare: a link may lead from one folder into the other.
    weights, real = Path(os.path.realpath(folder)), Path(os.path.realpath(place))
    if real == weights:
        raise ConflictError(
            f"{place}: is the weights folder, which fa3 never writes into", hint="choose another --output"
        )
    if weights in real.parents:
        _require_no_files_around(real, weights)
    return place


def _require_no_files_around(place: Path, weights: Path) -> None:
    """Raise ConflictError for an output among the model's files: the next run would read it as part of the model."""
    for folder in place.parents[: place.parents.index(weights)]:
        if folder.is_dir() and any(path.is_file() for path in folder.iterdir()):
            raise ConflictError(
                f"{place}: would lie among the files of {folder}, which belongs to the weights folder",
                hint="choose another --output",
            )


def where_to_save(options: RunOptions | ExportOptions, *, pipelines: bool = False) -> dict[str, Any]:
    """Return a job's targets, save_types and part_bytes, for a language model or a transformer of a pipeline.

    Raises UsageError for an invalid value, UnsupportedError if a target lacks support for this kind of model, a save type
    or several files.
    """
    chosen = targets_named(entries(options.target), pipelines=pipelines)
    save_types, part_file_size = entries(options.save_types), options.part_file_size
    if unknown := [name for name in save_types if name not in SAVE_TYPES]:
        raise UsageError(f"save_type (--save-type) {unknown[0]!r}: expected {' or '.join(SAVE_TYPES)}")
    for target in chosen:
        if other := set(save_types) - set(target.save_types):
            raise UnsupportedError(
                f"save_type {min(other)} for target {target.name}, which supports only {' and '.join(target.save_types)}",
                hint=f"use save_type {target.save_types[0]}"
                if pipelines
                else "export it for target modelslim, in a separate run or with fa3 calibrate and fa3 export",
            )
    if part_file_size is not None and not 0 < part_file_size < 1e6:
        raise UsageError(f"part_file_size (--part-file-size) {part_file_size}: expected gigabytes, more than 0")
    if whole := [target.name for target in chosen if part_file_size is not None and not target.sharded]:
        raise UnsupportedError(
            f"part_file_size for target {whole[0]}: its engine opens one weight file by name, and reads no index",
            hint="omit part_file_size",
        )
    return {
        "targets": chosen,
        # Sorted: the identity of a run must not depend on the order of the options.
        "save_types": tuple(sorted(set(save_types))) or ("safe_tensor",),
        "part_bytes": None if part_file_size is None else int(part_file_size * 1e9),
    }
