"""Gathers the facts of an export: what its files say, and what the run that made it wrote down."""

from __future__ import annotations

from pathlib import Path

from fa3cli.exports.recognition import recognize_target
from fa3cli.report.facts import NOT_LINEAR, OUTSIDE_BLOCKS, Facts, FloatModule
from fa3cli.report.head_scales import largest_code, read_head_scales
from fa3cli.report.layers import gather_layers
from fa3cli.report.names import layer_of
from fa3cli.report.recorded import Recorded, read_recorded
from fa3cli.report.stored import Matrices, Stored, open_stored, read_matrices
from fa3cli.runs.result import REPORT_FILE

__all__ = ["gather"]


def gather(folder: str | Path) -> Facts:
    """Read an export of any target, weights aside: headers, documents and the scales of q, k and v.

    Raises InvalidInputError if the folder holds none.
    """
    folder = Path(folder)
    stored = open_stored(folder)
    contents, recorded = stored.contents, read_recorded(stored.report.data or {})
    scales, remarks = read_head_scales(contents)
    matrices, config = read_matrices(contents), contents.config.data or {}
    architectures = config.get("architectures") or [config.get("_class_name")]  # the latter in diffusers
    return Facts(
        folder=str(folder),
        name=folder.resolve().name,
        model_type=_text(config.get("model_type")),
        architecture=_text(architectures[0]) if isinstance(architectures, list) and architectures else None,
        dtype=contents.geometry.dtype,
        target=recorded.target or recognize_target(folder).name,
        files=stored.files,
        size=stored.size,
        layers=gather_layers(recorded, matrices, scales, has_tensors=bool(contents.tensors)),
        quantized_elsewhere=tuple(name for name in matrices.quantized if not _in_layer(recorded, name)),
        float_elsewhere=_elsewhere(recorded, matrices),
        scales=tuple(scales),
        largest_code=largest_code(scales),
        accuracy=recorded.accuracy,
        images=recorded.images,
        origin=recorded.origin if stored.report.data else None,
        warnings=recorded.warnings,
        remarks=(*_unread(stored), *remarks),
    )


def _elsewhere(recorded: Recorded, matrices: Matrices) -> tuple[FloatModule, ...]:
    """Return the float matrices outside the layers; of a head, the setting that kept it float."""
    settings = recorded.origin.settings if recorded.origin else {}
    reason = "disable_last_linear" if settings.get("disable_last_linear") is True else None
    if settings.get("is_dynamic") is True:  # a pipeline's transformer, which has no head
        reason = OUTSIDE_BLOCKS
    return tuple(
        FloatModule(name, NOT_LINEAR if _is_embedding(name) else reason)
        for name in matrices.left_float
        if not _in_layer(recorded, name)
    )


def _in_layer(recorded: Recorded, name: str) -> bool:
    layer = layer_of(name)
    return layer in recorded.layers if recorded.layers else layer is not None


def _is_embedding(name: str) -> bool:
    leaf = name.rpartition(".")[2].removesuffix("embedder")  # those of diffusers are linears
    return "emb" in leaf or leaf in ("wte", "wpe")


def _unread(stored: Stored) -> list[str]:
    """Say which files were not there or could not be read, and what is not known without them."""
    remarks = [
        f"{shard.file} {shard.problem}: what it holds is not counted"
        for shard in stored.contents.shards
        if shard.problem
    ]
    remarks += [
        f"{document.file} {document.problem}"
        for document in (stored.contents.config, *stored.contents.descriptions)
        if document.problem
    ]
    if not stored.contents.shards:
        remarks.append(
            "there are no safetensors files, and pickled ones are not read: the scales are not known"
        )
    if stored.report.raw is None:
        remarks.append(
            f"there is no {REPORT_FILE}, so another tool made this: its reasons and settings are not known"
        )
    elif stored.report.problem:
        remarks.append(f"{stored.report.file} {stored.report.problem}: reasons and settings are not known")
    return remarks


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
