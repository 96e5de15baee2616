"""Turns the parameters of a layer and its loaded weights into the tensors of an export."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from torch import Tensor, nn

from fa3cli.calibration.job import Job
from fa3cli.calibration.memory import FreedMemory
from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.calibration.smoothing import wrapped_norms
from fa3cli.export.modelslim import ModelSlimExport, exported_names
from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.fallback import fall_back_attentions
from fa3cli.quantization.linear import quantize_linear
from fa3cli.quantization.reference_linear import quantize_reference_linear

__all__ = ["LayerWriter"]


class LayerWriter:
    """Writes weights and description of an export: what lies outside the layers at once, then a layer at a time."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.warnings: list[str] = []
        self._job, self._model, self._freed = job, job.model, FreedMemory(job.model.layer_bytes)
        self._norms = wrapped_norms(job.model, job.settings.anti_method)
        names = exported_names(job.model.names, job.quantized, job.attentions, self._norms)
        self._export = ModelSlimExport(folder, job.model.names, names, job.part_bytes)
        later = {name for part in job.quantized_head for name in self._model.of_layer[part]}
        outside = [name for name in self._model.outside if name not in later]
        for _, names in groupby(outside, key=lambda name: name.rpartition(".")[0]):
            self._add_outside(list(names))

    def add(self, layer: LayerParameters) -> None:
        """Write a layer that is loaded, its FA3 tensors left aside."""
        self._freed.release()
        for name in self._model.of_layer[layer.name]:
            self._add(name, layer.linears)
            self._freed.release_if_grown()

    def close(self, layers: Sequence[LayerParameters]) -> tuple[list[Path], frozenset[str]]:
        """Write the FA3 tensors of all layers but those that fall back; return the weight files and these modules."""
        scores = {name: score for layer in layers for name, score in layer.scores.items()}
        fallen = fall_back_attentions(scores, self._job.settings.fa_amp)
        for layer in layers:
            for name, ranges in layer.attentions.items():
                if name not in fallen:
                    self._export.add_module(name, self._head_tensors(ranges))
        return self._export.close(), fallen

    def _add_outside(self, names: list[str]) -> None:
        with self._model.loaded(names):
            for name in names:
                self._add(name, {})

    def _add(self, name: str, linears: dict[str, Range]) -> None:
        """Write a tensor as it is, or all that its module becomes."""
        module, _, leaf = name.rpartition(".")
        if module in self._norms:
            if leaf == "weight":
                norm = self._model.model.get_submodule(module)
                self._export.add_norm(module, norm.weight, getattr(norm, "bias", None))
        elif leaf == "weight" and module in linears:
            linear = self._model.model.get_submodule(module)
            self._export.add_module(module, self._linear_tensors(module, linear, *linears[module]))
        else:
            self._export.add(name, self._model.tensor(name))

    def _linear_tensors(self, name: str, linear: nn.Linear, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        settings = self._job.settings
        quantize = quantize_reference_linear if settings.reference else quantize_linear
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        tensors = quantize(weight, bias, low, high, self._model.dtype, mm_tensor=settings.mm_tensor)
        if not unpack_deq_scale(tensors["deq_scale"]).all():
            self.warnings.append(
                f"{name}: its deq_scale underflows to 0 in float16, as the reference's does; engines will "
                "compute zeros or worse there. Improved numerics, bfloat16 or disable_names avoid it"
            )
        return tensors

    def _head_tensors(self, ranges: dict[str, Range]) -> dict[str, Tensor]:
        tensors = {}
        for role, (low, high) in ranges.items():
            tensors |= quantize_heads(role, low, high, self._model.dtype)
        return tensors
