"""Makes synthetic weights of the right shapes, to time a layer without reading any weights."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from fa3cli.models.checkpoint import is_finite
from fa3cli.models.config_weights import ConfigWeights
from fa3cli.models.published.names import PublishedNames

__all__ = ["SyntheticWeights"]

_SPREAD = 0.02  # the initial standard deviation of most models
_PATTERN = 1 << 20


class SyntheticWeights(ConfigWeights):
    """Returns noise as weights. Tensors in `whole`, those of the timed layers, have memory of their own.

    All others, such as embeddings, are overlapping views of a small block of noise. `seconds` is the time spent to make
    weights.
    """

    def __init__(
        self, folder: Path, model: nn.Module, dtype: torch.dtype, whole: Collection[str], published: PublishedNames
    ) -> None:
        super().__init__(folder, model, dtype, published)
        self.seconds = 0.0
        self._dtypes = {published.tensor(path): tensor.dtype for path, tensor in model.state_dict().items()}
        self._whole = frozenset(whole)
        self._noise = torch.randn(_PATTERN, generator=torch.Generator().manual_seed(0)) * _SPREAD

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors of the model's shapes and dtypes; checks them for NaN, to take as long as a Checkpoint does."""
        begin = time.perf_counter()
        tensors = {name: self._synthetic(name) for name in names}
        self.seconds += time.perf_counter() - begin
        for name in self._whole & tensors.keys():
            is_finite(tensors[name])
        return tensors

    def _synthetic(self, name: str) -> Tensor:
        shape, dtype = self.tensors[name].shape, self._dtypes[name]
        if not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype)
        return self._filled(shape, dtype) if name in self._whole else self._windows(shape, dtype)

    def _filled(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor, noise = torch.empty(shape, dtype=dtype), self._noise.to(dtype)
        for part in torch.split(tensor.view(-1), _PATTERN):
            part.copy_(noise[: len(part)])
        return tensor

    def _windows(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return overlapping rows, each shifted by one value: all rows differ, and need no memory of their own."""
        rows, width = shape[0] if shape else 1, int(torch.Size(shape[1:]).numel())
        values = self._filled((rows + width,), dtype)
        return values.as_strided((rows, width), (1, 1)).view(shape)
