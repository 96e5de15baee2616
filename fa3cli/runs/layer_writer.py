"""Writes the tensors of an export from each layer's parameters and loaded weights."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby

import torch
from torch import Tensor

from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.smoothing import wrapped_norms
from fa3cli.exports.companions import companions, exported_config
from fa3cli.exports.folder import RunFolder
from fa3cli.exports.layout import model_value
from fa3cli.exports.numpy_files import write_numpy
from fa3cli.exports.target_export import TargetExport
from fa3cli.exports.targets.target import Target
from fa3cli.models.memory import FreedMemory
from fa3cli.models.tensor_tree import CPU
from fa3cli.numerics.deq_scale import unpack_deq_scale
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.dynamic_linear import dynamic_linear_layout, quantize_dynamic_linear
from fa3cli.quantization.linear import linear_layout, quantize_linear
from fa3cli.quantization.reference_linear import quantize_reference_linear
from fa3cli.runs.job import Job

__all__ = ["LayerWriter"]


class LayerWriter:
    """Writes the weights and description of an export: first the tensors outside the layers, then one layer at a time.

    Tensors that are not loaded, or that another rank writes, become gaps in the file. With `resumed`, an earlier run
    has written the tensors outside the layers.
    """

    def __init__(self, job: Job, folder: RunFolder, ranks: Ranks = ALONE, *, resumed: bool = False) -> None:
        self._job, self._model, self._ranks = job, job.model, ranks
        self._freed = FreedMemory(job.model.layer_bytes)
        self._norms = wrapped_norms(job.model, job.settings.anti_method)
        self._exports = [self._export(target, folder) for target in job.targets]
        # A quantized head is written in its own visit, after the layers.
        later = {name for part in job.quantized_head for name in self._model.of_layer[part]}
        # Written before the first journal entry: a resumed run does not write these tensors again.
        self._add_outside([name for name in self._model.outside if name not in later], resumed=resumed)
        for name in self._model.unknown:
            self._copy(name, own=ranks.leads and not resumed)
        self._sync()

    def _export(self, target: Target, folder: RunFolder) -> TargetExport:
        job = self._job
        place, scratch = (part / job.places[target.name] for part in (folder.export, folder.scratch))
        return TargetExport(
            target.storing(model_value(scheme.value for scheme in job.schemes.values())),
            place,
            job.model.exported_names,
            (job.quantized, job.attentions, self._norms),
            job.part_bytes,
            # For numpy alone, safetensors are intermediate and are removed with the run's folder.
            weights=place if "safe_tensor" in job.save_types else scratch,
            scratch=scratch,
            dynamic=job.dynamic,
        )

    def add(self, layer: LayerParameters) -> dict[str, str]:
        """Write a layer without its FA3 tensors, and sync it to the disk; return warnings by module."""
        self._freed.release()
        names = self._model.of_layer[layer.name]
        owners, warnings = self._owners(names), {}
        for name in names:
            if warning := self._add(name, layer.linears, owners):
                warnings[_module(name)] = warning
            self._freed.release_if_grown()
        # Synced before the caller adds the layer to the journal: an entry says that the tensors are on the disk.
        self._sync()
        if self._model.tensor(names[0]).is_meta:  # an earlier run has written this layer
            for export in self._exports:
                export.require_filled()
        return warnings

    def close(self, layers: Sequence[LayerParameters], float_attentions: Collection[str]) -> dict[str, dict[str, str]]:
        """Write the FA3 parameters of all attention modules but `float_attentions`, and all files beside the weights.

        The leading rank does this after the other ranks have closed the files. It returns the checksums of the
        tensors, by target; the other ranks return none.
        """
        if not self._ranks.leads:
            for export in self._exports:
                export.suspend()
        # A barrier: the leading rank finishes the files only after all others have closed them.
        self._ranks.gather(None)
        if not self._ranks.leads:
            return {}
        for layer in layers:
            for name, ranges in layer.attentions.items():
                if name not in float_attentions:
                    self._add_attention(name, ranges, layer.channels.get(name, {}))
        config = exported_config(self._job.config, self._model.dtype)
        classes = {type(module).__name__ for module in self._model.attentions().values()}
        for export in self._exports:
            files = export.close(
                self._matrices(), config, attention_classes=classes, mm_tensor=self._job.settings.mm_tensor
            )
            for file in companions(self._job.folder) if self._job.folder else ():
                shutil.copyfile(file, export.folder / file.name)
            if "numpy" in self._job.save_types:
                write_numpy(export.folder, files)
        return {export.target.name: export.checksums for export in self._exports}

    def _matrices(self) -> list[str]:
        """Return the modules with a matrix, and those of the copied tensors: an engine may build a linear for each."""
        copied = [_module(name) for name in self._model.unknown if _module(name) and name.endswith(".weight")]
        return [*self._model.matrices(), *(name for name in copied if len(self._model.shape(f"{name}.weight")) == 2)]

    def _sync(self) -> None:
        for export in self._exports:
            export.sync()

    def _add_outside(self, names: list[str], *, resumed: bool) -> None:
        owners = self._owners(names)
        for module, members in groupby(names, key=_module):
            group = list(members)
            own = owners[module] == self._ranks.rank and not resumed
            # Loaded on the CPU: embedding and head are on a device only while they compute.
            with self._model.loaded(group, CPU) if own else nullcontext():
                for name in group:
                    self._add(name, {}, owners)

    def _owners(self, names: list[str]) -> dict[str, int]:
        """Return which rank writes each module."""
        sizes: dict[str, int] = defaultdict(int)
        for name in names:
            sizes[_module(name)] += self._model.nbytes(name)
        return self._ranks.owners(sizes)

    def _add(self, name: str, linears: Mapping[str, Range | None], owners: Mapping[str, int]) -> str | None:
        """Write a tensor unchanged, or the tensors of its quantized linear or wrapped norm; return a warning."""
        module, leaf = _module(name), name.rpartition(".")[2]
        tensor = self._model.tensor(name).detach()
        if owners[module] != self._ranks.rank:
            # Another rank writes this tensor. A gap is added here, so that all ranks compute the same offsets.
            tensor = tensor.to("meta")
        if module in self._norms:
            # The norm's own bias is written with its weight, and not a second time under its own name.
            if leaf == "weight":
                bias = self._model.bias(module)
                bias = None if bias is None else bias.to(tensor.device)
                for export in self._exports:
                    export.add_norm(module, tensor, bias)
        elif leaf == "weight" and module in linears:
            tensors, warning = self._linear_tensors(module, tensor, linears[module])
            for export in self._exports:
                export.add_linear(module, tensors, self._job.schemes[module].value)
            return warning
        elif name in self._model.copied_for:
            for source in self._model.copied_for[name]:
                self._copy(source, own=not tensor.is_meta)
        else:
            for export in self._exports:
                export.add(name, tensor)
        return None

    def _copy(self, name: str, *, own: bool) -> None:
        """Write a published tensor as it is stored; only its shape if it is not this rank's `own`."""
        tensor = self._model.published_tensor(name)
        for export in self._exports:
            export.add(name, tensor if own else tensor.to("meta"))

    def _linear_tensors(self, name: str, weight: Tensor, ranges: Range | None) -> tuple[dict[str, Tensor], str | None]:
        settings, dtype = self._job.settings, self._model.dtype
        if ranges is None:
            if weight.is_meta:
                return dynamic_linear_layout(weight.shape, dtype), None
            return quantize_dynamic_linear(weight, dtype), None
        low, high = ranges
        if weight.is_meta:
            # The reference keeps the float32 scale of a histogram, except in a bfloat16 model.
            input_dtype = low.dtype if settings.reference and dtype != torch.bfloat16 else dtype
            return linear_layout(weight.shape, dtype, mm_tensor=settings.mm_tensor, input_dtype=input_dtype), None
        quantize = quantize_reference_linear if settings.reference else quantize_linear
        tensors = quantize(weight, self._model.bias(name), low, high, dtype, mm_tensor=settings.mm_tensor)
        if unpack_deq_scale(tensors["deq_scale"]).all():
            return tensors, None
        return tensors, (
            f"{name}: its deq_scale underflows to 0 in float16, as the reference's does; engines will "
            "compute zeros or wrong values there. Improved numerics, bfloat16 or disable_names avoid this"
        )

    def _add_attention(self, name: str, ranges: Mapping[str, Range], channels: Mapping[str, Tensor]) -> None:
        tensors: dict[str, Tensor] = {}
        for role, (low, high) in ranges.items():
            tensors |= quantize_heads(role, low, high, self._model.dtype)
        # head_dim is computed from the rows of k_proj and the observed heads: config.json may lack it.
        states = f"{name}.k_proj.weight"
        rows = self._model.shape(states)[0] if states in self._model.stored else 0
        for export in self._exports:
            export.add_attention(name, tensors, head_dim=rows // len(ranges["k"][0]), channels=channels)


def _module(name: str) -> str:
    return name.rpartition(".")[0]
