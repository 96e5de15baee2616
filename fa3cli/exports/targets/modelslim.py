"""Defines target modelslim: msModelSlim's layout, of which MindIE, mindie-turbo and vLLM-Ascend read parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fa3cli.exports.description import describe
from fa3cli.exports.layout import (
    DESCRIPTION_FILE,
    FA_QUANT,
    FA_TENSORS,
    LINEAR_VALUES,
    NORM_TENSORS,
    W8A8,
    W8A8_TENSORS,
)
from fa3cli.exports.targets.serving import Served, mindie_llm, vllm_ascend
from fa3cli.exports.targets.target import Target, Written

__all__ = ["ModelSlim"]


class ModelSlim(Target):
    """W8A8 linears, FA3 scales in the attention modules, and a description that lists all tensors."""

    name = "modelslim"
    linear_tensors: ClassVar[tuple[str, ...]] = W8A8_TENSORS
    attention_tensors: ClassVar[tuple[str, ...]] = FA_TENSORS
    norm_tensors: ClassVar[tuple[str, ...]] = tuple(NORM_TENSORS)
    save_types: ClassVar[tuple[str, ...]] = ("safe_tensor", "numpy")
    # Without FA3 the entry is absent, never null: engines read null in opposite ways.
    attention_settings: ClassVar[Mapping[str, str]] = {"fa_quant_type": FA_QUANT}
    """Entries of the description for the whole model, if it has FA3 parameters."""
    attention_value = FA_QUANT

    def __init__(self, value: str = W8A8) -> None:
        self.value = value

    @property
    def weight_file(self) -> str:
        """Name of the weight file: MindIE looks for the model's value in it."""
        return f"quant_model_weight_{self.value.lower()}.safetensors"

    @property
    def description_files(self) -> tuple[str, ...]:
        """The new name of the description, and the older one, which is deprecated in MindIE-LLM."""
        return (DESCRIPTION_FILE, f"quant_model_description_{self.value.lower()}.json")

    def storing(self, value: str) -> Target:
        """Return this target for models of this value."""
        return type(self)(value)

    def stored_in(self, folder: Path) -> Target:
        """Return this target for the value in the names of the weights or, without any, of the description."""
        variants = [self.storing(value) for value in LINEAR_VALUES]
        weights = (target for target in variants if _has_any(folder, target.weight_file, target.index_file))
        descriptions = (target for target in variants if _has_any(folder, target.description_files[-1]))
        return next(chain(weights, descriptions), self)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the tensors of the reference's norm module; a norm without bias gets zeros in float32."""
        # float32 in a bfloat16 model, too, as the reference writes it.
        bias = torch.zeros(weight.shape, device=weight.device) if bias is None else bias
        return {leaf: weight if leaf.endswith("weight") else bias for leaf in NORM_TENSORS}

    def serve(self, export: Served) -> str | None:
        """Return MindIE-LLM's command for an export that vLLM-Ascend does not read, else vLLM-Ascend's."""
        if export.partly_fa:
            return None
        return mindie_llm(export) if export.with_fa or export.wrapped_norms else vllm_ascend(export)

    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return the float model's config.json with `quantize`, by which MindIE recognises the format."""
        return {**config, "quantize": self.value.lower()}

    def documents(self, written: Written) -> dict[str, dict[str, Any]]:
        """Return the description under its newer and its older name."""
        description = describe(
            written.names,
            written.linears,
            written.attentions,
            written.norms if "module.weight" in self.norm_tensors else (),
            model_value=self.value,
            tensors_of=self.tensors_of,
            attention_settings=self.attention_settings,
            attention_tensors=dict.fromkeys(self.attention_tensors, self.attention_value),
        )
        return dict.fromkeys(self.description_files, description)


def _has_any(folder: Path, *names: str) -> bool:
    return any(os.path.lexists(folder / name) for name in names)
