"""Finds the numbers of devices over which heads and channels cannot be divided equally (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.geometry import Geometry

__all__ = ["TENSOR_PARALLEL_SIZES", "too_few_kv_heads", "uneven_channels", "uneven_heads"]

# One device divides nothing, so every engine can serve at size 1.
TENSOR_PARALLEL_SIZES = (2, 4, 8)


def uneven_heads(geometry: Geometry) -> Iterator[str]:
    """Yield the sizes that do not divide the heads, or by which KV heads are neither divided nor repeated equally."""
    heads, kv_heads = geometry.heads, geometry.kv_heads
    if heads:
        yield from _case(f"{heads} attention heads", [size for size in TENSOR_PARALLEL_SIZES if heads % size])
    if kv_heads:
        uneven = [size for size in TENSOR_PARALLEL_SIZES if max(kv_heads, size) % min(kv_heads, size)]
        yield from _case(f"{kv_heads} KV heads", uneven)


def uneven_channels(geometry: Geometry) -> Iterator[str]:
    """Yield the sizes that do not divide the channels of the MLP; sizes missing in config.json pass."""
    if channels := geometry.intermediate:
        yield from _case(f"{channels} channels of the MLP", [size for size in TENSOR_PARALLEL_SIZES if channels % size])


def too_few_kv_heads(geometry: Geometry) -> Iterator[str]:
    """Yield the sizes that are larger than the number of KV heads, so that devices share a head."""
    if heads := geometry.kv_heads:
        yield from _case(f"{heads} KV heads", [size for size in TENSOR_PARALLEL_SIZES if heads < size])


def _case(count: str, sizes: list[int]) -> Iterator[str]:
    if sizes:
        yield f"{count} at tensor parallel {', '.join(map(str, sizes))}"
