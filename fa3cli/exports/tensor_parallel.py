"""Finds the numbers of devices over which engines cannot split a model (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.geometry import Geometry

__all__ = ["TENSOR_PARALLEL_SIZES", "split_remarks"]

TENSOR_PARALLEL_SIZES = (2, 4, 8)


def split_remarks(geometry: Geometry) -> Iterator[str]:
    """Yield the tensor-parallel sizes at which no engine can split a model; sizes missing in config.json pass."""
    for count, parts in ((geometry.heads, "attention heads"), (geometry.intermediate, "channels of the MLP")):
        sizes = [str(size) for size in TENSOR_PARALLEL_SIZES if count and count % size]
        if sizes:
            yield f"{count} {parts}: cannot be split at tensor parallel {', '.join(sizes)}"
