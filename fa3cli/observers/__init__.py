"""Collects statistics of tensors that flow through a model.

An observer is an immutable value: `updated(values)` returns the observer after one more sample, so that linears with
the same input can share it. `tokens` counts the observed tokens. Observers of improved numerics give the same bits for
every order and split of the samples, and `merged(*others)` joins them; the reference's are `InOrder`. An observer stays
on the device of its first sample; later samples may be on another device, after a layer had to run on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NOTHING", "InOrder", "Mergeable", "Observer", "RangeObserver"]

# The statistics of an observer without samples. Made once: an observer may be created while a device is the default.
NOTHING: Final = torch.empty(0)


class Mergeable(Protocol):
    """Statistics that ranks join."""

    def merged(self, *others: Self) -> Self: ...


class Observer(Mergeable, Protocol):
    """Statistics of a linear's input, `[..., in]`."""

    @property
    def tokens(self) -> int: ...

    def updated(self, values: Tensor) -> Self: ...


class RangeObserver(Observer, Protocol):
    """An observer that returns a range to quantize."""

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the range, `[1]` each."""
        ...


class InOrder:
    """Base of observers whose bits depend on the order of all samples, so that several ranks cannot share the samples."""

    def merged(self, *others: Self) -> Self:
        """Raise TypeError."""
        raise TypeError(f"{type(self).__name__} cannot be merged")
