"""Statistics of what flows through a model.

An observer is a value: `updated(values)` returns what is known after one more sample, so that linears which share an
input share its statistics. `tokens` counts what was seen. Those of improved numerics also have `merged(*others)`, and
give the same bits in whatever order and shares the samples come. What is known stays on the device of the first sample;
later ones may come from another, as those of a layer that had to run elsewhere do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

__all__ = ["Observer", "RangeObserver"]


class Observer(Protocol):
    """What is known of a linear's input, `[..., in]`."""

    @property
    def tokens(self) -> int: ...

    def updated(self, values: Tensor) -> Self: ...


class RangeObserver(Observer, Protocol):
    """An observer that ends in a range to quantize."""

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the range, `[1]` each."""
        ...
