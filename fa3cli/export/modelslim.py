"""Target modelslim: the layout msModelSlim writes, which MindIE and vLLM-Ascend load."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fa3cli.export.description import describe, write_description
from fa3cli.export.layout import FA_TENSORS, NORM_TENSORS, W8A8_TENSORS, WEIGHT_FILE
from fa3cli.export.safetensors_writer import SafetensorsWriter

__all__ = ["ModelSlimExport", "exported_names"]


class ModelSlimExport:
    """Takes the model's tensors as they become final and writes weights and description into `folder`.

    `names` are the float model's, in module order; `room_for` all that an export can hold. The weights go to `weights`,
    a folder too; `scratch` see SafetensorsWriter, and so for tensors on the meta device.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        room_for: Sequence[str],
        part_bytes: int | None,
        *,
        weights: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._folder, self._names = folder, names
        self._writer = SafetensorsWriter(
            (weights or folder) / WEIGHT_FILE, room_for, part_bytes, scratch=scratch
        )
        self._linears: list[str] = []
        self._attentions: list[str] = []
        self._norms: list[str] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor that stays as it is."""
        self._writer.add(name, tensor)

    def add_module(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a W8A8 linear, or the FA3 tensors of an attention module."""
        (self._attentions if FA_TENSORS[0] in tensors else self._linears).append(module)
        for leaf, tensor in tensors.items():
            self._writer.add(f"{module}.{leaf}", tensor)

    def add_norm(self, module: str, weight: Tensor, bias: Tensor | None = None) -> None:
        """Write a norm as AntiOutlier's are stored; one that has no bias gets float32 zeros."""
        self._norms.append(module)
        bias = torch.zeros(weight.shape, device=weight.device) if bias is None else bias
        for leaf in NORM_TENSORS:
            self._writer.add(f"{module}.{leaf}", weight if leaf.endswith("weight") else bias)

    def sync(self) -> None:
        """Have everything on the disk that was written so far."""
        self._writer.sync()

    def require_filled(self) -> None:
        """Raise ConflictError where something of what was written before is gone."""
        self._writer.require_filled()

    def suspend(self) -> None:
        """Leave everything as it is, for the rank that finishes it."""
        self._writer.suspend()

    def close(self) -> list[Path]:
        """Finish the weight files and write the description; return the weight files."""
        files = self._writer.close()
        write_description(self._folder, describe(self._names, self._linears, self._attentions, self._norms))
        return files


def exported_names(
    names: Sequence[str], quantized: Collection[str], attentions: Collection[str], norms: Collection[str] = ()
) -> list[str]:
    """Return the names of every tensor an export of these modules can hold."""
    return [
        *names,
        *(f"{module}.{leaf}" for module in quantized for leaf in W8A8_TENSORS),
        *(f"{module}.{leaf}" for module in attentions for leaf in FA_TENSORS),
        *(f"{module}.{leaf}" for module in norms for leaf in NORM_TENSORS),
    ]
