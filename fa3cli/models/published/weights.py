"""Defines what models read their weights from, and the base of weights that are computed from other stored ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from fa3cli.models.checkpoint import TensorInfo

__all__ = ["DerivedWeights", "Weights"]


class Weights(Protocol):
    """Stored tensors by name, such as a Checkpoint."""

    folder: Path
    tensors: dict[str, TensorInfo]

    @property
    def files(self) -> list[str]:
        """Names of the files."""

    def path(self, name: str) -> Path:
        """Return the file that holds a tensor."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name."""

    def read_ahead(self, names: Iterable[str]) -> None:
        """Announce that these tensors will be read next."""


class DerivedWeights:
    """Tensors that are computed from those of `stored` when they are read; subclasses define `tensors` and `read`."""

    tensors: dict[str, TensorInfo]

    def __init__(self, stored: Weights) -> None:
        self._stored, self.folder = stored, stored.folder

    @property
    def files(self) -> list[str]:
        """Names of the files."""
        return self._stored.files

    def path(self, name: str) -> Path:
        """Return the file that holds a tensor, or the first tensor that it is made from."""
        return self.folder / self.tensors[name].file

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the stored tensors that a tensor is made from: only itself, if it is stored."""
        return (name,)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Start reading tensors in the background."""
        self._stored.read_ahead(source for name in names for source in self.sources(name))
