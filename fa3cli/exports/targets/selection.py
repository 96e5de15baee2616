"""Describes what a run will quantize, so that targets can refuse it or warn before the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fa3cli.exports.geometry import Geometry, read_geometry
from fa3cli.quantization.fallback import fused_groups
from fa3cli.quantization.schemes import is_expert

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """The model's config.json, dtype, tensor names, linears and attention modules, and the quantized ones of them.

    `attentions` are all modules that can get FA3 parameters, `fa_layers` is the number of those that get them. With
    `may_split` linears fall back one by one, so that fused groups may become half float. With `wraps_norms` AntiOutlier
    adds tensors to norms. `head` is the linear after the layers.
    """

    config: Mapping[str, Any]
    dtype: str
    names: Collection[str]
    linears: Collection[str]
    quantized: Collection[str]
    attentions: Collection[str]
    fa_layers: int
    head: str | None = None
    static: Collection[str] = ()
    """The quantized linears whose inputs have a stored scale."""
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
        return any(map(is_expert, self.static))

    def half_float(self) -> Iterator[str]:
        """Yield the linears that are float in a partly quantized fused group, in words."""
        float_linears = [
            name
            for group in fused_groups(self.linears)
            if 0 < len(group & set(self.quantized)) < len(group)
            for name in self.linears
            if name in group and name not in self.quantized
        ]
        if float_linears:
            others = f" and {len(float_linears) - 1} others" if len(float_linears) > 1 else ""
            yield f"{float_linears[0]}{others}: float, but the linears fused with them are not"
