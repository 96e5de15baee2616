"""A group of linears that are smoothed together, and what its rule may look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fa3cli.observers.channel_statistics import ChannelStatistics

__all__ = ["Group", "GroupData", "Rule"]


@dataclass(frozen=True)
class Group:
    """Linears that share an input, and the norm or linear it comes from; names are relative to the decoder layer."""

    source: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class GroupData:
    """The inputs, weights `[out, in]` and biases `[out]` of a group's linears, before any smoothing.

    Of the inputs' channels, `[heads, repeats, size]`, those of `repeats` heads come from one of the source's: query
    heads that share a value head. `repeats` is 1 for every other group.
    """

    inputs: ChannelStatistics
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    heads: int = 1
    repeats: int = 1


Rule = Callable[[GroupData], Tensor]
"""Returns the factor of each input channel, `[in]`, the same for all repeats."""
