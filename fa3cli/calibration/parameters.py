"""What calibration finds out: the ranges of everything that is quantized, and what stays float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["LayerParameters", "Range"]

Range = tuple[Tensor, Tensor]
"""Lowest and highest value: `[1]` each for a linear's input, `[H]` each for a role's heads."""


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one decoder layer, or of the head behind them, as far as a visit of it found them out.

    `linears` are the inputs' ranges of those that become W8A8, None where inputs are quantized at run time; `attentions` the roles' ranges of the modules that can
    get FA3 parameters, and `scores` what fa_amp chooses between these by; `smoothing` AntiOutlier's scales by their
    source; `range_params` what disable_level and act_method 3 choose linears by; `error` how far the layer is off when
    all of that is quantized (`layer_error`); `timesteps` the largest |bound| of q, k and v at each timestep of a diffusion
    transformer, the latest first.
    """

    name: str
    linears: Mapping[str, Range | None] = field(default_factory=dict)
    attentions: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    smoothing: Mapping[str, Tensor] = field(default_factory=dict)
    range_params: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: float | None = None
    timesteps: tuple[Mapping[str, float], ...] = ()
