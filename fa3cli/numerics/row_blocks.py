"""Splits a large tensor into blocks that stay in the processor's cache between elementwise steps."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["row_blocks", "token_blocks"]

_ELEMENTS = 1 << 18
_STATES = 1 << 20  # elements of q, k or v: callers make only one or two small tensors per block


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of `[rows, columns]`, about 2^18 elements per slice."""
    step = max(1, _ELEMENTS // max(matrix.shape[1], 1))
    return (slice(start, start + step) for start in range(0, matrix.shape[0], step))


def token_blocks(states: Tensor) -> Iterator[Tensor]:
    """Yield views of blocks of tokens, in order: `[B, H, S, D] -> [H, tokens, D]`, about 2^20 elements per block."""
    tokens = max(1, _STATES // max(states.shape[1] * states.shape[3], 1))
    return (block for sample in states for block in sample.split(tokens, dim=1))
