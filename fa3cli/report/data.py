"""Gathers the facts of an export from its files and from the report of its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fa3cli.exports.layout import REPORT_FILE
from fa3cli.exports.recognition import recognize_target
from fa3cli.exports.targets import TARGETS, for_pipelines, serve_command
from fa3cli.report.facts import NOT_LINEAR, OUTSIDE_BLOCKS, Facts, FloatModule, LayerFacts
from fa3cli.report.head_scales import largest_code, read_head_scales
from fa3cli.report.layers import gather_layers
from fa3cli.report.names import layer_of
from fa3cli.report.recorded import Recorded, read_recorded
from fa3cli.report.stored import Matrices, Stored, open_stored, read_matrices

__all__ = ["gather"]


def gather(folder: str | Path) -> Facts:
    """Read an export of any target: headers, documents and the scales of q, k and v, but no weights.

    Raises InvalidInputError if the folder holds no export.
    """
    folder = Path(folder)
    stored = open_stored(folder)
    contents, recorded = stored.contents, read_recorded(stored.report.data or {})
    scales, remarks = read_head_scales(contents)
    matrices, config = read_matrices(contents), contents.config.data or {}
    architectures = config.get("architectures") or [config.get("_class_name")]  # the second is diffusers'
    layers = gather_layers(recorded, matrices, scales, has_tensors=bool(contents.tensors))
    target = recorded.target or recognize_target(folder).name
    return Facts(
        folder=str(folder),
        name=folder.resolve().name,
        model_type=_text(config.get("model_type")),
        architecture=_text(architectures[0]) if isinstance(architectures, list) and architectures else None,
        dtype=contents.geometry.dtype,
        target=target,
        serve=_serve(folder, target, layers),
        files=stored.files,
        size=stored.size,
        layers=layers,
        schemes=dict(Counter(value for value in matrices.quantized.values() if value)),
        quantized_elsewhere=tuple(name for name in matrices.quantized if not _in_layer(recorded, name)),
        float_elsewhere=_float_elsewhere(recorded, matrices),
        scales=tuple(scales),
        largest_code=largest_code(scales),
        accuracy=recorded.accuracy,
        images=recorded.images,
        origin=recorded.origin if stored.report.data else None,
        warnings=recorded.warnings,
        remarks=(*_file_remarks(stored), *remarks),
    )


def _serve(folder: Path, target: str, layers: Iterable[LayerFacts]) -> str | None:
    """Return the command that serves the export; a later version of fa3 may have other targets."""
    return serve_command(target, folder, (layer.fa for layer in layers)) if target in TARGETS else None


def _float_elsewhere(recorded: Recorded, matrices: Matrices) -> tuple[FloatModule, ...]:
    """Return the float matrices outside the layers, and the setting that kept them float if it is known."""
    settings = recorded.origin.settings if recorded.origin else {}
    reason = "disable_last_linear" if settings.get("disable_last_linear") is True else None
    if for_pipelines(recorded.target):  # a transformer has no head
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
    leaf = name.rpartition(".")[2].removesuffix("embedder")  # an embedder of diffusers is a linear
    return "emb" in leaf or leaf in ("wte", "wpe")


def _file_remarks(stored: Stored) -> list[str]:
    """Return a sentence for each missing or unreadable file, which says what is unknown without the file."""
    remarks = [
        f"{shard.file} {shard.problem}: its tensors are not counted"
        for shard in stored.contents.shards
        if shard.problem
    ]
    remarks += [
        f"{document.file} {document.problem}"
        for document in (stored.contents.config, *stored.contents.descriptions)
        if document.problem
    ]
    if not stored.contents.shards:
        remarks.append("there are no safetensors files, and pickled files are not read: the scales are not known")
    if stored.report.raw is None:
        remarks.append(
            f"there is no {REPORT_FILE}, so another tool made this export: reasons and settings are not known"
        )
    elif stored.report.problem:
        remarks.append(f"{stored.report.file} {stored.report.problem}: reasons and settings are not known")
    return remarks


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
