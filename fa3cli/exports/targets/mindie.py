"""Target mindie: the modelslim layout, and nothing in it that MindIE-LLM stops at."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.targets.modelslim import ModelSlim
from fa3cli.exports.targets.selection import Selection
from fa3cli.exports.targets.target import Refusal
from fa3cli.exports.tensor_parallel import head_remarks

__all__ = ["MindIE", "refused_by_ascend"]


class MindIE(ModelSlim):
    """What MindIE-LLM's models load: FA3 in every layer or in none, fused groups whole."""

    name = "mindie"

    def refused(self, selection: Selection) -> Iterator[Refusal]:
        """Yield what stops MindIE-LLM at load."""
        if selection.partly_fa:
            yield Refusal(
                "some layers would stay without FA3, and MindIE asserts that every layer has its six tensors",
                "leave fa_amp at 0 and attention modules out of disable_names, or choose --no-fa",
            )
        yield from refused_by_ascend(selection)

    def warnings(self, selection: Selection) -> Iterator[str]:
        """Yield what mindie-turbo, which reads the same files, cannot load of this."""
        if selection.fa_layers:
            yield from head_remarks(selection.geometry)


def refused_by_ascend(selection: Selection) -> Iterator[Refusal]:
    """Yield what neither MindIE's runtime nor vLLM-Ascend loads."""
    for group in selection.half_float():
        yield Refusal(
            f"{group}; the engine joins q, k, v and gate, up into one linear and refuses one that is half float",
            "name the whole group in disable_names, or choose improved numerics, which let whole groups fall back",
        )
    if selection.mm_tensor:
        yield Refusal(
            "mm_tensor stores one weight scale a linear; the engine reads one a row", "leave mm_tensor off"
        )
