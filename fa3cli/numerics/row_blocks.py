"""Rows of a large matrix in blocks that stay in a processor's cache from one elementwise step to the next."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["row_blocks"]

_ELEMENTS = 1 << 18


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of `[rows, columns]`, each of about 2^18 elements."""
    step = max(1, _ELEMENTS // max(matrix.shape[1], 1))
    return (slice(start, start + step) for start in range(0, matrix.shape[0], step))
