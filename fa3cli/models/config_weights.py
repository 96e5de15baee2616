"""Derives names, shapes and dtypes of weights from config.json only, which is enough for a plan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from fa3cli.files.tensors import stored_dtype
from fa3cli.models.checkpoint import TensorInfo, no_weights
from fa3cli.models.published.names import PublishedNames

__all__ = ["ConfigWeights", "has_weights"]

_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")


class ConfigWeights:
    """Replaces a Checkpoint: names and shapes are the model's, floats are stored in `dtype`.

    Reading raises the same InvalidInputError as opening the folder's Checkpoint.
    """

    def __init__(
        self, folder: Path, model: nn.Module, dtype: torch.dtype, published: PublishedNames | None = None
    ) -> None:
        self.folder, names = folder, published or PublishedNames()
        # No files: this is how a model knows that only a plan is possible.
        self.files: list[str] = []
        named = dict(model.named_parameters(remove_duplicate=False))
        aliases = named.keys() - dict(model.named_parameters()).keys()  # tied tensors are stored once
        self.tensors = {
            names.tensor(path): _info(tensor, dtype)
            for path, tensor in model.state_dict().items()
            if path not in aliases
        }

    def path(self, name: str) -> Path:
        """Return the folder, since there are no files of weights."""
        return self.folder

    def read_ahead(self, names: Iterable[str]) -> None:
        """Do nothing: there is nothing to read."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Raise InvalidInputError."""
        raise no_weights(self.folder)


def has_weights(folder: Path) -> bool:
    """Tell whether a folder holds files of weights, valid or not."""
    return any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES)


def _info(tensor: Tensor, dtype: torch.dtype) -> TensorInfo:
    stored = dtype if tensor.is_floating_point() else tensor.dtype
    # Checks compare only the kind of dtype, so any integer may stand for another.
    return TensorInfo("", stored_dtype(stored) or "I64", tuple(tensor.shape), tensor.numel() * stored.itemsize)
