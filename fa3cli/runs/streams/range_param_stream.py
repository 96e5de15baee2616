"""Measures range_param of the linears' inputs, on the smoothed float layer."""

from __future__ import annotations

from dataclasses import replace

from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.observers.range_param import RangeParam
from fa3cli.runs.streams.stream import Stream, Visit

__all__ = ["RangeParamStream"]


class RangeParamStream(Stream):
    """The first samples, for settings that need range_param: disable_level and act_method 3."""

    name = "range_param"

    def visit(self, visit: Visit, found: LayerParameters) -> LayerParameters:
        linears, observer = (
            self.linears(visit.part, self.job.static),
            RangeParam(in_float32=not self.job.settings.reference),
        )
        # One observer for all: linears with the same input then share the work.
        with LinearInputs(linears, dict.fromkeys(linears, observer)) as inputs:
            visit.advance(inputs)
        observers = visit.ranks.merged(inputs.observers)
        range_params = {name: observed.value() for name, observed in observers.items()}
        visit.findings.range_params |= range_params
        return replace(found, range_params=range_params)
