"""Defines target mindie: the modelslim layout, restricted to the exports that MindIE-LLM loads."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal
from fa3cli.exports.tensor_parallel import mindie_turbo_remarks

__all__ = ["MindIE", "refused_by_ascend"]


class MindIE(ModelSlim):
    """The form that MindIE-LLM loads: FA3 in all layers or none, fused groups entirely int8 or float."""

    name = "mindie"

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield why MindIE-LLM cannot load the export."""
        if selection.partly_fa:
            yield Refusal(
                "some layers would stay without FA3, and MindIE asserts that every layer has its six tensors",
                "leave fa_amp at 0 and attention modules out of disable_names, or choose --no-fa",
            )
        yield from refused_by_ascend(selection)

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield why mindie-turbo, which reads the same files, cannot load the export."""
        if selection.fa_layers:
            yield from mindie_turbo_remarks(selection.geometry)


def refused_by_ascend(selection: Selection) -> Iterator[Refusal]:
    """Yield why neither MindIE's runtime nor vLLM-Ascend can load the export."""
    for group in selection.half_float():
        yield Refusal(
            f"{group}; the engine fuses q, k, v and gate, up into one linear and refuses a half-float group",
            "name the whole group in disable_names, or choose improved numerics, which let whole groups fall back",
        )
    if selection.mm_tensor:
        yield Refusal(
            "mm_tensor stores one weight scale per linear, but the engine reads one per row",
            "leave mm_tensor off",
        )
