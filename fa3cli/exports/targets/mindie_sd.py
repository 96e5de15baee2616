"""Defines target mindie-sd: W8A8 linears with inputs quantized at run time, and FA3, for pipelines' transformers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fa3cli.exports.layout import W8A8_DYNAMIC, W8A8_DYNAMIC_TENSORS
from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.serving import Served, mindie_sd
from fa3cli.exports.targets.target import Target

__all__ = ["MindIESD"]


class MindIESD(ModelSlim):
    """The form that MindIE-SD loads: a description, and one weight file beside it, both named by quantization type."""

    name = "mindie-sd"
    pipelines = True
    # MindIE-SD reads no index.
    sharded = False
    linear_tensors = W8A8_DYNAMIC_TENSORS
    other_forms = ()
    norm_tensors = Target.norm_tensors
    save_types = ("safe_tensor",)

    def __init__(self, value: str = W8A8_DYNAMIC) -> None:
        super().__init__(value)

    @property
    def values(self) -> tuple[str, ...]:
        """The values that quantized linears may have."""
        return (W8A8_DYNAMIC,)

    @property
    def description_files(self) -> tuple[str, ...]:
        """The name that MindIE-SD opens: it contains model_quant_type in lower case, as that of the weights beside it."""
        return super().description_files[-1:]

    def stored_in(self, folder: Path) -> Target:
        """Return this target: MindIE-SD knows only one value."""
        return self

    def serve(self, export: Served) -> str:
        """Return the call for a pipeline's Python script."""
        return mindie_sd(export, self.description_files[-1])

    def norm(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Return the smoothed norm under the float norm's names: MindIE-SD does not read `.module.` tensors."""
        return Target.norm(self, weight, bias)
