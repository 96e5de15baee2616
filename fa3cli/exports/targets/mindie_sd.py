"""Target mindie-sd: W8A8 linears whose inputs are quantized at run time, and FA3, for transformers of pipelines."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fa3cli.exports.layout import W8A8_DYNAMIC, W8A8_DYNAMIC_TENSORS
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal, Target

__all__ = ["MindIESD"]


class MindIESD(ModelSlim):
    """What MindIE-SD opens when it is given a description's path: one weight file beside it, named after its type."""

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
        """Return the smoothed norm under its own names: MindIE-SD knows no `.module.` tensors."""
        return Target.norm(self, weight, bias)

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield what MindIE-SD cannot load, or has nothing to do for."""
        if not selection.quantized and not selection.fa_layers:
            yield Refusal(
                "neither a linear nor an attention module would be quantized",
                "name fewer modules in disable_names, or patch the model so that its attention can be",
            )
        if selection.mm_tensor:
            yield Refusal(
                "mm_tensor stores one weight scale a linear; the engine reads one a row",
                "leave mm_tensor off",
            )

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield which versions of MindIE-SD do less than this asks for."""
        if selection.fa_layers:
            yield "MindIE-SD 3.x ignores FAQuant without a word, for it wants fp8: q, k and v are int8 up to 2.3 only"
