"""Holds the results of the visits so far, for later layers and passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.quantization.fallback import fall_back_linears, whole_groups
from fa3cli.runs.job import Job

__all__ = ["Findings"]


@dataclass
class Findings:
    """AntiOutlier's scales by layer, range_param by linear, and the structures whose smoothing was checked."""

    smoothing: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    range_params: dict[str, float] = field(default_factory=dict)
    structures: set[tuple[tuple[str, type], ...]] = field(default_factory=set)

    def add(self, layer: LayerParameters) -> None:
        """Add the results of a visit in an earlier run."""
        if layer.smoothing:
            self.smoothing[layer.name] = layer.smoothing
        self.range_params |= layer.range_params

    def float_linears(self, job: Job) -> frozenset[str]:
        """Return the linears that disable_level leaves float; range_param of all linears must be known."""
        chosen = fall_back_linears(self.range_params, job.settings.level)
        # The reference's disable_level may split a fused group.
        return chosen if job.settings.reference else whole_groups(chosen, job.static)
