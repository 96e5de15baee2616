"""Finds the groups of linears that AntiOutlier smooths together in a layer, and collects their data."""

from __future__ import annotations

import torch
from torch import nn

from fa3cli.errors import InvalidInputError
from fa3cli.models.checkpoint import is_finite
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.tensor_tree import moved
from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.quantization.anti_outlier.group import Group, GroupData
from fa3cli.quantization.settings import QuantSettings

__all__ = ["BLOCK", "group_data", "groups_of", "shared_heads"]

BLOCK = 1 << 23
"""Number of weights per block of a search with improved numerics: 32 MB in float32."""


def groups_of(model: LayeredModel, layer: str, groups: tuple[Group, ...]) -> list[Group]:
    """Return the groups that exist in a layer, with full module names.

    A group's names are those of the modules in the layer's class; a checkpoint may publish others.
    """
    held = model.inside(layer) if layer in model.layers else {}
    return [
        Group(held[group.source], tuple(held[name] for name in group.linears))
        for group in groups
        if all(name in held for name in (group.source, *group.linears))
    ]


def group_data(model: LayeredModel, group: Group, observed: ChannelStatistics, settings: QuantSettings) -> GroupData:
    """Return a rule's input data; raises InvalidInputError if the linears' input is not finite.

    Improved numerics compute in float32, in blocks of weights; the reference in the model's dtype, on whole weights.
    """
    if not observed.tokens or not is_finite(torch.stack([observed.low, observed.high])):
        raise InvalidInputError(
            f"the input of {group.linears[0]} is not finite, or no calibration sample reached it",
            hint="check the weights and the calibration data, or use a wider --dtype",
        )
    dtype = model.dtype if settings.reference else torch.float32
    biases = [model.bias(name) for name in group.linears]
    return GroupData(
        moved(observed.to(dtype), model.device),  # statistics that were merged over ranks are on the CPU
        [model.tensor(f"{name}.weight").detach() for name in group.linears],
        [None if bias is None else bias.to(dtype) for bias in biases],
        *shared_heads(model, group),
        block=None if settings.reference else BLOCK,
    )


def shared_heads(model: LayeredModel, group: Group) -> tuple[int, int]:
    """Return the number of the source's heads, and how many heads of the group's input share each of them."""
    source = model.module(group.source)
    if not isinstance(source, nn.Linear):
        return 1, 1
    # o_proj reads all query heads, but its source v_proj has only the key-value heads.
    repeats = model.tensor(f"{group.linears[0]}.weight").shape[1] // source.out_features
    if repeats == 1:
        return 1, 1
    config = model.config
    # Configs of many models have no head_dim, or None.
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return source.out_features // size, repeats
