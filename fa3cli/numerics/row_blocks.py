"""Parts of a large tensor that stay in a processor's cache from one elementwise step to the next."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["row_blocks", "token_blocks"]

_ELEMENTS = 1 << 18
_STATES = 1 << 20  # of q, k or v: whoever asks for them makes only one small tensor or two of each block


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Yield slices of the rows of `[rows, columns]`, each of about 2^18 elements."""
    step = max(1, _ELEMENTS // max(matrix.shape[1], 1))
    return (slice(start, start + step) for start in range(0, matrix.shape[0], step))


def token_blocks(states: Tensor) -> Iterator[Tensor]:
    """Yield views of some tokens at a time, in order: `[B, H, S, D] -> [H, tokens, D]`, about 2^20 elements each."""
    tokens = max(1, _STATES // max(states.shape[1] * states.shape[3], 1))
    return (block for sample in states for block in sample.split(tokens, dim=1))
