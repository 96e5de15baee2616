"""Lists the methods m1 to m6: the groups that each method smooths, its rule, and the data of the rule."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from fa3cli.quantization.anti_outlier.awq import searched_scale
from fa3cli.quantization.anti_outlier.cbq import outlier_scale
from fa3cli.quantization.anti_outlier.flex_smooth import flexible_scale
from fa3cli.quantization.anti_outlier.group import Group, Rule
from fa3cli.quantization.anti_outlier.outlier_suppression import suppressed_scale
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale, migrated_scale

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One of AntiOutlier's methods."""

    groups: tuple[Group, ...]
    rule: Rule
    all_samples: bool = True
    """Whether the statistics use all samples, or only the first."""
    keep: int = 0
    """Number of samples whose whole inputs the rule needs."""
    copies: int = 1
    """Number of copies of a group's weights that the search holds at a time."""
    multiplies_all: bool = False
    """Whether the search multiplies all kept samples by the weights, or only the first (faster, less memory)."""
    wraps_norms: bool = True
    """Whether every norm is exported with a bias and under a second name."""

    def samples(self, count: int) -> int:
        """Return the number of samples that the method needs, of `count`."""
        return count if self.all_samples else min(count, 1)


# Names of the modules in the layer classes of Llama, Qwen2 and similar models.
_NORMS = (
    Group("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Group("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)
_LINEARS = (Group("self_attn.v_proj", ("self_attn.o_proj",)), Group("mlp.up_proj", ("mlp.down_proj",)))
_EVERY = sys.maxsize  # samples: these rules need the inputs themselves, extremes are not sufficient

METHODS = {
    "m1": Method(_NORMS, balanced_scale),
    "m2": Method(_NORMS, suppressed_scale, keep=_EVERY),
    "m3": Method(_NORMS, searched_scale, all_samples=False, keep=1),
    "m4": Method(_NORMS + _LINEARS, migrated_scale),
    "m5": Method(_NORMS, outlier_scale),
    "m6": Method(_NORMS + _LINEARS, flexible_scale, keep=_EVERY, copies=3, multiplies_all=True, wraps_norms=False),
}
