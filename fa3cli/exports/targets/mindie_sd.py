"""Defines target mindie-sd: W8A8 linears with inputs quantized at run time, and FA3, for pipelines' transformers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fa3cli.exports.layout import W8A8_DYNAMIC, W8A8_DYNAMIC_TENSORS
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal, Target

__all__ = ["MindIESD"]


class MindIESD(ModelSlim):
    """The form that MindIE-SD loads from a description's path: one weight file in the same folder, named by type."""

    name = "mindie-sd"
    pipelines = True
    weight_file = f"quant_model_weight_{W8A8_DYNAMIC.lower()}.safetensors"
    sharded = False
    description_files = (f"quant_model_description_{W8A8_DYNAMIC.lower()}.json",)
    linear_value = W8A8_DYNAMIC
    linear_tensors = W8A8_DYNAMIC_TENSORS
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under the float norm's names: MindIE-SD does not read `.module.` tensors."""
        return Target.norm(self, weight, bias)

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield why MindIE-SD cannot load the export, or why nothing is quantized."""
        if not selection.quantized and not selection.fa_layers:
            yield Refusal(
                "neither a linear nor an attention module would be quantized",
                "name fewer modules in disable_names, or patch the model to quantize its attention",
            )
        if selection.mm_tensor:
            yield Refusal(
                "mm_tensor stores one weight scale per linear, but the engine reads one per row",
                "leave mm_tensor off",
            )

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield which versions of MindIE-SD do not use the FA3 parameters."""
        if selection.fa_layers:
            yield "MindIE-SD 3.x ignores FAQuant silently, since it expects fp8: q, k and v are int8 up to 2.3 only"
