"""Collects statistics of tensors that flow through a model.

An observer is an immutable value: `updated(values)` returns the observer after one more sample, so that linears with the
same input can share it. `tokens` counts the observed tokens. Observers of improved numerics also have
`merged(*others)`, and give the same bits for every order and split of the samples. An observer stays on the device of
its first sample; later samples may be on another device, after a layer had to run on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Observer", "RangeObserver"]


class Observer(Protocol):
    """Statistics of a linear's input, `[..., in]`."""

    @property
    def tokens(self) -> int: ...

    def updated(self, values: Tensor) -> Self: ...


class RangeObserver(Observer, Protocol):
    """An observer that returns a range to quantize."""

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the range, `[1]` each."""
        ...
