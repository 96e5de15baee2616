"""Finds the numbers of devices over which engines cannot split a model (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.geometry import Geometry

__all__ = ["mindie_turbo_remarks", "split_remarks"]

_SIZES = (2, 4, 8)
_TURBO_HEAD_DIM = 128


def split_remarks(geometry: Geometry) -> Iterator[str]:
    """Yield the tensor-parallel sizes at which no engine can split a model; sizes missing in config.json pass."""
    for count, what in ((geometry.heads, "attention heads"), (geometry.intermediate, "channels of the MLP")):
        sizes = [str(size) for size in _SIZES if count and count % size]
        if sizes:
            yield f"{count} {what}: cannot be split at tensor parallel {', '.join(sizes)}"


def mindie_turbo_remarks(geometry: Geometry) -> Iterator[str]:
    """Yield why mindie-turbo, which reads the same FA3 scales as MindIE, cannot load a model of these sizes."""
    if geometry.head_dim and geometry.head_dim != _TURBO_HEAD_DIM:
        yield f"head_dim is {geometry.head_dim}: mindie-turbo takes FA3 for {_TURBO_HEAD_DIM} only"
    few = [str(size) for size in _SIZES if geometry.kv_heads and geometry.kv_heads < size]
    if few:
        yield (
            f"{geometry.kv_heads} KV heads: mindie-turbo cannot split them at tensor parallel {', '.join(few)}; "
            "MindIE repeats a head on several devices"
        )
