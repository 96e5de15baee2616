"""Holds the results of calibration: ranges of everything that is quantized, scores, scales and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["LayerParameters", "Range"]

Range = tuple[Tensor, Tensor]
"""Lowest and highest value: `[1]` each for a linear's input, `[H]` each for a role's heads."""


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one decoder layer, or of the head after the layers, as far as they were found.

    `linears`: input ranges of the linears that become W8A8, None if inputs are quantized at run time.
    `attentions`: ranges per role of the modules that can get FA3 parameters; `scores`: fa_amp ranks these modules by them.
    `channels`: largest |k| and |v| per channel, `[H, D]` float32, by module and role. Calibrations of earlier versions, and
    those of pipelines, lack them.
    `smoothing`: AntiOutlier's scales by source module.
    `range_params`: disable_level and act_method 3 choose linears by them.
    `unreached`: linears that no sample ran, which stay float. Calibrations of earlier versions lack this field.
    `error`: the layer's error with all these modules quantized (`layer_error`).
    `timesteps`: largest |bound| of q, k and v per timestep of a diffusion transformer, highest timestep first.
    """

    name: str
    linears: Mapping[str, Range | None] = field(default_factory=dict)
    attentions: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    channels: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    smoothing: Mapping[str, Tensor] = field(default_factory=dict)
    range_params: Mapping[str, float] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: float | None = None
    timesteps: tuple[Mapping[str, float], ...] = ()
