"""Defines target modelslim: msModelSlim's layout, of which MindIE, mindie-turbo and vLLM-Ascend read parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fa3cli.exports.description import describe
from fa3cli.exports.layout import DESCRIPTION_FILES, FA_QUANT, FA_TENSORS, NORM_TENSORS, W8A8_TENSORS, WEIGHT_FILE
from fa3cli.exports.targets.target import Target, Written

__all__ = ["ModelSlim"]


class ModelSlim(Target):
    """W8A8 linears, FA3 scales in the attention modules, and a description that lists all tensors."""

    name = "modelslim"
    weight_file = WEIGHT_FILE
    # Two names for the same text: in MindIE-LLM, the one with w8a8 is deprecated.
    description_files: ClassVar[tuple[str, ...]] = DESCRIPTION_FILES
    linear_tensors: ClassVar[tuple[str, ...]] = W8A8_TENSORS
    attention_tensors: ClassVar[tuple[str, ...]] = FA_TENSORS
    norm_tensors: ClassVar[tuple[str, ...]] = tuple(NORM_TENSORS)
    save_types: ClassVar[tuple[str, ...]] = ("safe_tensor", "numpy")
    # Without FA3 the entry is absent, never null: engines read null in opposite ways.
    attention_settings: ClassVar[Mapping[str, str]] = {"fa_quant_type": FA_QUANT}
    """Entries of the description for the whole model, if it has FA3 parameters."""
    attention_value = FA_QUANT

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the tensors of the reference's norm module; a norm without bias gets zeros in float32."""
        # float32 in a bfloat16 model, too, as the reference writes it.
        bias = torch.zeros(weight.shape, device=weight.device) if bias is None else bias
        return {leaf: weight if leaf.endswith("weight") else bias for leaf in NORM_TENSORS}

    def config(self, config: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """Return the float model's config.json with `quantize`, by which MindIE recognises the format."""
        return {**config, "quantize": self.linear_value.lower()}

    def documents(self, written: Written) -> dict[str, dict[str, Any]]:
        """Return the description under its newer and its older name."""
        description = describe(
            written.names,
            written.linears,
            written.attentions,
            written.norms if "module.weight" in self.norm_tensors else (),
            linear_value=self.linear_value,
            linear_tensors=self.linear_tensors,
            attention_settings=self.attention_settings,
            attention_tensors=dict.fromkeys(self.attention_tensors, self.attention_value),
        )
        return dict.fromkeys(self.description_files, description)
