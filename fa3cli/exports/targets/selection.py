"""What a run will quantize, as far as it is known before: what a target is asked about at plan time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fa3cli.exports.geometry import Geometry, read_geometry
from fa3cli.quantization.fallback import fused_groups

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """The model's config.json, dtype and tensor names, its linears and attention modules, and those that are quantized.

    `attentions` are all modules that could get FA3 parameters, `fa_layers` the number of those that do. `may_split` says
    that linears will fall back one by one, so that fused groups may end half float; `wraps_norms` that AntiOutlier gives
    norms more tensors; `head` is the linear behind the layers.
    """

    config: Mapping[str, Any]
    dtype: str
    names: Collection[str]
    linears: Collection[str]
    quantized: Collection[str]
    attentions: Collection[str]
    fa_layers: int
    head: str | None = None
    mm_tensor: bool = False
    may_split: bool = False
    wraps_norms: bool = False

    @cached_property
    def geometry(self) -> Geometry:
        """Sizes of the model."""
        return read_geometry(dict(self.config))

    @property
    def partly_fa(self) -> bool:
        """Whether some attention modules get FA3 parameters and others don't."""
        return 0 < self.fa_layers < len(self.attentions)

    @property
    def has_experts(self) -> bool:
        """Whether the model is a mixture of experts."""
        return any(".experts." in name for name in self.names)

    def half_float(self) -> Iterator[str]:
        """Say which linears are float though others of their fused group are not, or may end so by disable_level."""
        stays = [
            name
            for group in fused_groups(self.linears)
            if 0 < len(group & set(self.quantized)) < len(group)
            for name in self.linears
            if name in group and name not in self.quantized
        ]
        if stays:
            others = f" and {len(stays) - 1} others" if len(stays) > 1 else ""
            yield f"{stays[0]}{others} float, but the linears fused with them are not"
        if self.may_split:
            yield "disable_level counts single linears, as the reference does, and may split fused ones"
