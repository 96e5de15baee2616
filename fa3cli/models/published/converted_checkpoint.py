"""Reads the tensors of a model that transformers makes from published tensors of another layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from fa3cli.models.checkpoint import TensorInfo
from fa3cli.models.published.names import Conversion
from fa3cli.models.published.weights import DerivedWeights, Weights

__all__ = ["ConvertedCheckpoint"]


class ConvertedCheckpoint(DerivedWeights):
    """The tensors of `stored`, and those that `conversions` make from them, with the shapes that the model expects."""

    def __init__(self, stored: Weights, conversions: Sequence[Conversion], expected: Mapping[str, Tensor]) -> None:
        super().__init__(stored)
        self._makers = {target: conversion for conversion in conversions for target in conversion.targets}
        self.tensors = {**stored.tensors, **{name: self._info(name, expected[name]) for name in self._makers}}

    def _info(self, name: str, tensor: Tensor) -> TensorInfo:
        # The dtype is the stored one: conversions rearrange values.
        first = self._stored.tensors[self._makers[name].sources[0]]
        return TensorInfo(first.file, first.dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name; those of one conversion are made together."""
        wanted = list(names)
        read = self._stored.read(name for name in wanted if name not in self._makers)
        for name in wanted:
            if name not in read:
                conversion = self._makers[name]
                read |= conversion.make(self._stored.read(conversion.sources))
        return {name: read[name] for name in wanted}

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the stored tensors that a tensor is made from: only itself, if it is stored."""
        return self._makers[name].sources if name in self._makers else (name,)
