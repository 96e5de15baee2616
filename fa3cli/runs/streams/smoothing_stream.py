"""Finds AntiOutlier's scales for a layer, and smooths the layer before other streams see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fa3cli.calibration.parameters import LayerParameters
from fa3cli.calibration.smoothing import find_smoothing, smooth
from fa3cli.calibration.smoothing_groups import BLOCK
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.runs.streams.layer_bytes import FLOAT32, cast_bytes, forward_bytes, smoothed_groups, weight_count
from fa3cli.runs.streams.stream import Stream, Visit

__all__ = ["SmoothingStream"]


class SmoothingStream(Stream):
    """AntiOutlier's samples, on the original layer; without samples, the stream only applies known scales."""

    name = "smoothing"

    def visit(self, visit: Visit, found: LayerParameters) -> LayerParameters:
        job, part, scales = self.job, visit.part, visit.findings.smoothing
        if part not in job.model.layers:
            visit.advance(None)  # the head has no groups
        elif self.count:
            modules = job.model.layers[part].named_modules()
            structure = tuple((name, type(module)) for name, module in modules)
            # One check per structure: a check costs a forward, and layers of the same modules pass or fail alike.
            new = structure not in visit.findings.structures
            scales[part] = find_smoothing(job.model, part, job.settings, visit.advance, visit.ranks, checked=new)
            visit.findings.structures.add(structure)
        # find_all_smoothing smooths a resident model, after all visits.
        if part in scales and not job.model.resident:
            smooth(job.model, part, job.settings.anti_method, scales[part])
        return replace(found, smoothing=scales.get(part, {}))

    def peak_bytes(self, part: str) -> int:
        return max(self._phases(part), default=0)

    def _phases(self, layer: str) -> Iterator[int]:
        """Yield the bytes of each group's search, and of comparing the smoothed layer with the original."""
        job, groups = self.job, smoothed_groups(self.job, layer)
        model, itemsize = job.model, job.model.dtype.itemsize
        if not groups or job.smoothing:
            return
        method = METHODS[job.settings.anti_method]
        kept = job.samples[: method.keep]
        tokens = sum(sample.tokens for sample in kept)
        multiplied = tokens if method.multiplies_all else max((sample.tokens for sample in kept), default=0)
        loaded = cast_bytes(job, model.of_layer[layer])
        widths = [model.shape(f"{group.linears[0]}.weight")[1] for group in groups]
        held = loaded + tokens * sum(widths) * itemsize
        computes = itemsize if job.settings.reference else FLOAT32
        for group, width in zip(groups, widths):
            weights = weight_count(job, set(group.linears))
            rows, copies = weights // width, method.copies
            if not job.settings.reference:
                weights, copies = min(weights, BLOCK), 1 + method.copies
            values = tokens * width * (computes != itemsize) + multiplied * (3 * width + 4 * rows)
            yield held + (copies * weights + values) * computes
        changed = {name for group in groups for name in group.linears}
        yield loaded + weight_count(job, changed) * itemsize + forward_bytes(job, layer)
