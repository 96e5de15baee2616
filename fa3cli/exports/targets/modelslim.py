"""Defines target modelslim: msModelSlim's layout, of which MindIE, mindie-turbo and vLLM-Ascend read parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fa3cli.exports.description import describe
from fa3cli.exports.layout import (
    DESCRIPTION_FILE,
    FA_QUANT,
    FA_TENSORS,
    LATENT_FA3,
    LINEAR_VALUES,
    NORM_TENSORS,
    OPTIONAL_TENSORS,
    W8A8,
    W8A8_TENSORS,
    WEIGHT_NAMES,
    AttentionForm,
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
    attention_value = FA_QUANT
    model_entries: ClassVar[Mapping[str, object]] = {}
    """Other entries of the description for the whole model; none, as in the guide's exports."""
    other_forms: ClassVar[tuple[AttentionForm, ...]] = (LATENT_FA3,)
    optional_tensors: ClassVar[Mapping[str, tuple[str, ...]]] = OPTIONAL_TENSORS

    def __init__(self, value: str = W8A8, weight_name: str | None = None) -> None:
        self.value = value
        # MindIE looks for the model's value in the name.
        self._weight_name = weight_name or f"quant_model_weight_{value.lower()}"
        # Only msModelSlim's newer savers write the other names, and they never convert a weight.
        self.in_model_dtype = weight_name is not None

    @property
    def weight_file(self) -> str:
        """Name of the weight file if there is only one."""
        return f"{self._weight_name}.safetensors"

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
        named = next((target for target in variants if os.path.lexists(folder / target.description_files[-1])), self)
        others = [type(self)(named.value, name) for name in WEIGHT_NAMES]
        return next((target for target in [*variants, *others] if _has_weights(folder, target)), named)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the tensors of the reference's norm module; a norm without bias gets zeros in float32."""
        # float32 in a bfloat16 model, too, as the reference writes it.
        bias = torch.zeros(weight.shape, device=weight.device) if bias is None else bias
        return {leaf: weight if leaf.endswith("weight") else bias for leaf in NORM_TENSORS}

    def serve(self, export: Served) -> str | None:
        """Return MindIE-LLM's command for an export that vLLM-Ascend does not read, else vLLM-Ascend's."""
        if export.partly_fa or export.dtype == "float32":
            return None  # no engine reads it
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
            model_entries=self.model_entries,
        )
        return dict.fromkeys(self.description_files, description)


def _has_weights(folder: Path, target: Target) -> bool:
    shards = folder.glob(target.weight_file.replace(".safetensors", "-*.safetensors"))
    return any(os.path.lexists(folder / name) for name in (target.weight_file, target.index_file)) or any(shards)
