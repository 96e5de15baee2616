"""Builds the skeleton of an export's float model from its config.json, to know which tensors the model needs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from fa3cli.errors import Fa3Error
from fa3cli.exports.expected_tensors import ExpectedTensors
from fa3cli.models.config_weights import ConfigWeights
from fa3cli.models.published.conversions import match_checkpoint
from fa3cli.models.skeleton import build_skeleton, read_config
from fa3cli.models.streamed_model import StreamedModel
from fa3cli.quantization.float_only import never_quantized

__all__ = ["tensors_expected_in"]


def tensors_expected_in(folder: Path, stored_names: Collection[str]) -> ExpectedTensors | None:
    """Return the tensors that the float model of an export needs; None if transformers cannot build the model.

    `stored_names` are the tensors of the export. No code of the folder runs: a model with code of its own is not built.
    """
    try:
        # Any dtype will do: only names, shapes and kinds of dtypes are used.
        skeleton = build_skeleton(read_config(folder, trusted=False), torch.float32, None, tensors=len(stored_names))
        published = match_checkpoint(skeleton, stored_names)
        weights = ConfigWeights(folder, skeleton, torch.float32, published)
        model = StreamedModel(skeleton, weights, torch.float32, torch.device("cpu"), published=published)
    except Fa3Error:
        return None
    copied = model.copied_for.keys()
    tensors = {name: model.tensor(name) for name in model.names if name not in copied}
    linears = model.linears()
    return ExpectedTensors(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tied=model.tied,
        integers=frozenset(name for name, tensor in tensors.items() if not tensor.is_floating_point()),
        linears=frozenset(linears) - never_quantized(linears).keys(),
    )
