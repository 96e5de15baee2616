"""Chooses where a job's exports go and in which form: targets, save types, file sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.exports.target_names import KV_CACHE_SCHEMES
from fa3cli.exports.targets import targets_named
from fa3cli.exports.targets.target import Target
from fa3cli.exports.targets.vllm import Vllm
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
    chosen = _with_kv_cache(targets_named(entries(options.target), pipelines=pipelines), options)
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


def _with_kv_cache(targets: Sequence[Target], options: RunOptions | ExportOptions) -> tuple[Target, ...]:
    """Return the targets with the scheme of `--kv-cache-scheme`; raises UsageError if it contradicts other options."""
    scheme, fa = options.kv_cache_scheme, getattr(options, "fa", None)
    if scheme not in (None, *KV_CACHE_SCHEMES):
        raise UsageError(f"kv_cache_scheme (--kv-cache-scheme) {scheme!r}: expected {', '.join(KV_CACHE_SCHEMES)}")
    if scheme is not None and not any(isinstance(target, Vllm) for target in targets):
        raise UsageError("kv_cache_scheme (--kv-cache-scheme): is for target vllm only")
    chosen = tuple(Vllm(scheme) if scheme and isinstance(target, Vllm) else target for target in targets)
    if fa is False and scheme not in (None, "none"):
        raise UsageError(f"kv_cache_scheme (--kv-cache-scheme) {scheme}: needs q, k and v, but --no-fa leaves them out")
    if fa and not any(target.stores_attention for target in chosen):
        raise UsageError(
            "--fa: target vllm stores scales of q, k and v only with a --kv-cache-scheme",
            hint="choose tensor, or attn_head for FlashAttention 3",
        )
    return chosen
