"""Defines target mindie-sd: W8A8 linears with inputs quantized at run time, and FA3, for pipelines' transformers."""

from __future__ import annotations

from torch import Tensor

from fa3cli.exports.layout import W8A8_DYNAMIC, W8A8_DYNAMIC_TENSORS
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.target import Target

__all__ = ["MindIESD"]


class MindIESD(ModelSlim):
    """The form that MindIE-SD loads: a description, and one weight file beside it, both named by quantization type."""

    name = "mindie-sd"
    pipelines = True
    # MindIE-SD opens this name beside the description: it contains model_quant_type in lower case.
    weight_file = f"quant_model_weight_{W8A8_DYNAMIC.lower()}.safetensors"
    # MindIE-SD reads no index.
    sharded = False
    description_files = (f"quant_model_description_{W8A8_DYNAMIC.lower()}.json",)
    linear_value = W8A8_DYNAMIC
    linear_tensors = W8A8_DYNAMIC_TENSORS
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under the float norm's names: MindIE-SD does not read `.module.` tensors."""
        return Target.norm(self, weight, bias)
