"""Builds the float model of an export from its config.json, without weights, to know which tensors it needs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from fa3cli.errors import Fa3Error
from fa3cli.exports.float_model import FloatModel
from fa3cli.models.config_weights import ConfigWeights
from fa3cli.models.published.conversions import published_names
from fa3cli.models.skeleton import build_skeleton, read_config
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.quantization.schemes import never_quantized

__all__ = ["float_model"]


def float_model(folder: Path, held: Collection[str]) -> FloatModel | None:
    """Return the float model of an export with the tensors `held`; None if transformers cannot build one.

    No code of the folder runs: a model with code of its own is not built.
    """
    try:
        skeleton = build_skeleton(read_config(folder, trusted=False), torch.float32, None, tensors=len(held))
        published = published_names(skeleton, held)
        weights = ConfigWeights(folder, skeleton, torch.float32, published)
        model = StreamedModel(skeleton, weights, torch.float32, torch.device("cpu"), published=published)
    except Fa3Error:
        return None
    copied = model.copied_for.keys()
    tensors = {name: model.tensor(name) for name in model.names if name not in copied}
    linears = model.linears()
    return FloatModel(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tied=model.tied,
        integers=frozenset(name for name, tensor in tensors.items() if not tensor.is_floating_point()),
        linears=frozenset(linears) - never_quantized(linears).keys(),
    )
