"""Describes what a run will quantize, so that targets can refuse it or warn before the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from fa3cli.exports.geometry import Geometry, read_geometry
from fa3cli.exports.layout import W8A8_DYNAMIC
from fa3cli.quantization.fallback import fused_groups
from fa3cli.quantization.schemes import is_expert, mixture_of

__all__ = ["Selection"]

AnyGroup = TypeVar("AnyGroup", bound=Collection[str])


@dataclass(frozen=True)
class Selection:
    """The model's config.json, dtype, tensor names, linears and attention modules, and which of them are quantized.

    `attentions` are all modules that can get FA3 parameters, `fa_layers` is the number of those that get them. With
    `may_split` linears fall back one by one, so that fused groups may become half float. With `wraps_norms` AntiOutlier
    adds tensors to norms. `head` is the linear after the layers.
    """

    config: Mapping[str, Any]
    dtype: str
    names: Collection[str]
    linears: Collection[str]
    quantized: Mapping[str, str]
    """The value of each quantized linear in the description."""
    attentions: Collection[str]
    fa_layers: int
    head: str | None = None
    mm_tensor: bool = False
    may_split: bool = False
    wraps_norms: bool = False

    @cached_property
    def geometry(self) -> Geometry:
        """Sizes in the model's config.json."""
        return read_geometry(dict(self.config))

    @property
    def partly_fa(self) -> bool:
        """Whether some attention modules get FA3 parameters and others do not."""
        return 0 < self.fa_layers < len(self.attentions)

    @property
    def static_experts(self) -> bool:
        """Whether the inputs of experts have a stored scale."""
        return any(is_expert(name) and value != W8A8_DYNAMIC for name, value in self.quantized.items())

    def half_float(self) -> Iterator[str]:
        """Yield the linears that are float in a partly quantized fused group, in words."""
        uneven = self._uneven(fused_groups(self.linears))
        if found := [name for group in uneven for name in self.linears if name in group and name not in self.quantized]:
            yield f"{_first(found)}: float, but the linears fused with them are not"

    def mixed_groups(self) -> Iterator[str]:
        """Yield the first linear of each quantized fused group that has several schemes, in words."""
        uneven = self._uneven(fused_groups(self.linears))
        if found := [min(group) for group in uneven if group <= self.quantized.keys()]:
            yield f"{_first(found)}: another scheme than the linears fused with them"

    def split_experts(self) -> Iterator[str]:
        """Yield the first expert of each layer whose experts are float in part, or have several schemes, in words."""
        layers: dict[str, list[str]] = {}
        for name in filter(is_expert, self.linears):
            layers.setdefault(mixture_of(name), []).append(name)
        if found := [group[0] for group in self._uneven(layers.values())]:
            yield f"{_first(found)}: another scheme than other experts of the layer"

    def _uneven(self, groups: Iterable[AnyGroup]) -> list[AnyGroup]:
        """Return the groups of linears that are float in part, or have several schemes."""
        return [group for group in groups if len({self.quantized.get(name) for name in group}) > 1]


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} others" if len(names) > 1 else "")
