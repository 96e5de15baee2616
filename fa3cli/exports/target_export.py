"""Writes an export for one target: each tensor when its values are final, then the documents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fa3cli.exports.safetensors_writer import SafetensorsWriter
from fa3cli.exports.targets.target import Target, Written

__all__ = ["TargetExport"]


class TargetExport:
    """Writes the model's tensors into `folder` in the form of `target`, in the order they become final.

    `names` are the float model's tensors in module order; `room_for` are the linears, attention modules and norms that
    can be quantized, `dynamic` the linears among them without scales of inputs. `weights` is the folder of the weight
    files, by default `folder`. See SafetensorsWriter for `scratch` and for tensors on the meta device.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        names: Sequence[str],
        room_for: tuple[Iterable[str], Iterable[str], Iterable[str]],
        part_bytes: int | None = None,
        *,
        weights: Path | None = None,
        scratch: Path | None = None,
        dynamic: Collection[str] = (),
    ) -> None:
        self.target, self.folder, self._names = target, folder, names
        for place in (folder, weights, scratch):
            if place is not None:
                place.mkdir(exist_ok=True)
        self._writer = SafetensorsWriter(
            (weights or folder) / target.weight_file,
            target.exported_names(names, *room_for, dynamic),
            part_bytes,
            scratch=scratch,
            metadata=target.metadata,
        )
        self._linears: dict[str, str] = {}
        self._attentions: list[str] = []
        self._norms: list[str] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a float tensor unchanged."""
        self._writer.add(name, tensor)

    def add_linear(self, module: str, tensors: Mapping[str, Tensor], value: str) -> None:
        """Write a quantized linear, which has this value in the description."""
        self._linears[module] = value
        self._add_module(module, self.target.linear(tensors))

    def add_attention(
        self,
        module: str,
        tensors: Mapping[str, Tensor],
        head_dim: int,
        channels: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Write the FA3 parameters of an attention module; see `Target.attention`."""
        self._attentions.append(module)
        self._add_module(module, self.target.attention(tensors, head_dim, channels))

    def add_norm(self, module: str, weight: Tensor, bias: Tensor | None = None) -> None:
        """Write a norm that AntiOutlier changed."""
        self._norms.append(module)
        self._add_module(module, self.target.norm(weight, bias))

    def sync(self) -> None:
        """Wait until all tensors written so far are on the disk."""
        self._writer.sync()

    def require_filled(self) -> None:
        """Raise ConflictError if tensors written before are lost."""
        self._writer.require_filled()

    def suspend(self) -> None:
        """Close the files unfinished, for the rank that finishes them."""
        self._writer.suspend()

    def close(
        self,
        matrices: Sequence[str],
        config: Mapping[str, Any],
        *,
        attention_classes: Collection[str] = (),
        mm_tensor: bool = False,
    ) -> list[Path]:
        """Finish the weight files, write config.json and the target's documents; return the weight files.

        `matrices` are all linears of the model and other modules with a matrix, `config` is the float model's config.json.
        """
        files = self._writer.close()
        written = Written(
            names=self._names,
            linears=self._linears,
            float_linears=_without(matrices, self._linears),
            attentions=self._attentions,
            norms=self._norms,
            attention_classes=attention_classes,
            mm_tensor=mm_tensor,
        )
        # Made last: the description names only modules whose tensors were written.
        documents = self.target.documents(written) | {"config.json": self.target.config(config, written)}
        for name, document in documents.items():
            (self.folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return files

    @property
    def checksums(self) -> dict[str, str]:
        """The checksum of every tensor, after `close`."""
        return self._writer.checksums

    def _add_module(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        for leaf, tensor in tensors.items():
            self._writer.add(f"{module}.{leaf}", tensor)


def _without(names: Sequence[str], others: Collection[str]) -> list[str]:
    left_out = set(others)
    return [name for name in names if name not in left_out]
