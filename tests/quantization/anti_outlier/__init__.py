"""Makes random groups to smooth."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.quantization.anti_outlier.group import GroupData


def group_of(
    samples: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    heads: int = 1,
    repeats: int = 1,
) -> GroupData:
    """The data of a group with these inputs; all samples are kept."""
    inputs = ChannelStatistics(keep=sys.maxsize)
    for sample in samples:
        inputs = inputs.updated(sample)
    return GroupData(inputs, weights, biases or [None] * len(weights), heads, repeats)


def random_group(
    seed: int,
    *,
    rows: Sequence[int] = (6, 5),
    channels: int = 8,
    heads: int = 1,
    repeats: int = 1,
    biased: bool = False,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> GroupData:
    """Two samples, and a weight for each of `rows`; channels are scaled by random powers of two with this `spread`."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sizes, widths = 2 ** (spread * noise(channels)), 2 ** (spread * noise(channels))
    samples = [(noise(tokens, channels) * sizes).to(dtype) for tokens in (9, 5)]
    weights = [(noise(count, channels) * widths).to(dtype) for count in rows]
    biases = [noise(count).to(dtype) for count in rows] if biased else None
    return group_of(samples, weights, biases, heads, repeats)
