"""Defines a group of linears that are smoothed together, and the data that a rule uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from fa3cli.observers.channel_statistics import ChannelStatistics

__all__ = ["Group", "GroupData", "Rule"]


@dataclass(frozen=True)
class Group:
    """Linears that share an input, and the source of this input, a norm or linear; names are relative to the layer."""

    source: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class GroupData:
    """The inputs, weights `[out, in]` and biases `[out]` of a group's linears, before any smoothing.

    The inputs' channels are `[heads, repeats, size]`: `repeats` input heads come from one head of the source, as with
    query heads that share a value head; `repeats` is 1 for all other groups. Rules compute in the dtype of the inputs,
    with about `block` weights at a time; without `block` with all weights of a linear, like the reference.
    """

    inputs: ChannelStatistics
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    heads: int = 1
    repeats: int = 1
    block: int | None = None

    def blocks(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield a weight `[out, in]` in blocks of rows: the slice of the rows, and the block in the dtype of the inputs."""
        step = len(weight) if self.block is None else max(1, self.block // weight.shape[1])
        for start in range(0, len(weight), step):
            rows = slice(start, min(start + step, len(weight)))
            # Cast block by block: a float32 copy of the whole weight would be twice its size.
            yield rows, weight[rows].to(self.inputs.low.dtype)

    def outputs(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return a linear's outputs: `[tokens, in] -> [tokens, out]`."""
        parts = [linear(values, block, None if bias is None else bias[rows]) for rows, block in self.blocks(weight)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


Rule = Callable[[GroupData], Tensor]
"""Returns the factor of each input channel, `[in]`, the same for all repeats."""
