"""How many devices a model can be split over, and which engines stop at a number that others take."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.geometry import Geometry

__all__ = ["head_remarks", "undivided"]

_SIZES = (2, 4, 8)
_TURBO_HEAD_DIM = 128


def undivided(geometry: Geometry) -> Iterator[str]:
    """Yield at which tensor-parallel sizes no engine can split a model; nothing where config.json is silent."""
    for count, what in ((geometry.heads, "attention heads"), (geometry.intermediate, "channels of the MLP")):
        sizes = [str(size) for size in _SIZES if count and count % size]
        if sizes:
            yield f"{count} {what}: not to be split at tensor parallel {', '.join(sizes)}"


def head_remarks(geometry: Geometry) -> Iterator[str]:
    """Yield what mindie-turbo, which reads FA3 scales as MindIE does, cannot load of a model of these sizes."""
    if geometry.head_dim and geometry.head_dim != _TURBO_HEAD_DIM:
        yield f"head_dim is {geometry.head_dim}: mindie-turbo takes FA3 for {_TURBO_HEAD_DIM} only"
    few = [str(size) for size in _SIZES if geometry.kv_heads and geometry.kv_heads < size]
    if few:
        yield (
            f"{geometry.kv_heads} KV heads: mindie-turbo can't split them at tensor parallel {', '.join(few)}; "
            "MindIE gives several devices the same head"
        )
