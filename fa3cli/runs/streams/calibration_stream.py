"""Observes the ranges of linears and attention states, and measures the layer's error on the first sample."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from fa3cli.calibration.layer_error import layer_error
from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.quantization.input_observers import input_observers
from fa3cli.runs.streams.layer_bytes import error_bytes, forward_bytes, loaded_bytes, weight_count
from fa3cli.runs.streams.stream import Stream, Visit
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["CalibrationStream"]


class CalibrationStream(Stream):
    """All samples; with the reference's numerics, on quantized linears."""

    name = "calibration"

    def visit(self, visit: Visit, found: LayerParameters) -> LayerParameters:
        job, part = self.job, visit.part
        model, settings, ranks = job.model, job.settings, visit.ranks
        float_linears = visit.findings.float_linears(job)
        linears = self.linears(part, job.quantized - float_linears)
        attentions = {name: module for name, module in model.attentions(part).items() if name in job.attentions}
        observers = input_observers(
            settings, [name for name in linears if name in job.static], visit.findings.range_params
        )
        # The first sample, on which the error is measured, belongs to the leading rank.
        call = RecordedCall(model.layers[part]) if part in model.layers and ranks.leads else None
        with LayerObservation(observers, linears, attentions, settings) as observation, call or nullcontext():
            visit.advance(observation)
        # Measured after the block: scores and error need the float weights, which the linears have again.
        observed = observation.parameters(part, ranks)
        error = layer_error(call, model.module, observed, settings, job.samples[0].mask) if call else None
        return replace(observed, error=ranks.first(error), smoothing=found.smoothing, range_params=found.range_params)

    def peak_bytes(self, part: str) -> int:
        job, model = self.job, self.job.model
        linears = set(model.linears(part))
        # The reference's fake-quantized weights are copies beside the float weights.
        fake = weight_count(job, linears & job.quantized) * model.dtype.itemsize * job.settings.reference
        forward, error = forward_bytes(job, part), error_bytes(job) if part in model.layers else 0
        quantizing = max((weight_count(job, {name}) for name in linears), default=0)
        # One after the other: observing, measuring the error, quantizing.
        return loaded_bytes(job, part) + max(fake + forward, forward + error, quantizing)
