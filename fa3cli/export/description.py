"""The description of an export: how every one of its tensors was made."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from fa3cli.export.layout import (
    DESCRIPTION_FILES,
    FA_QUANT,
    FA_TENSORS,
    FLOAT,
    NORM_TENSORS,
    W8A8,
    W8A8_TENSORS,
)

__all__ = ["describe", "write_description"]


def describe(
    names: Sequence[str],
    quantized: Collection[str],
    attentions: Collection[str],
    norms: Collection[str] = (),
) -> dict[str, str]:
    """Return the description in module order: name -> W8A8, FLOAT or FAQuant, after the two type keys.

    `names` are all tensors of the float model in module order, tied names included; `quantized` the W8A8
    linears, `attentions` the modules with FA3 parameters, `norms` those that AntiOutlier gave more tensors. Without
    any attention, `fa_quant_type` is absent: engines read null in opposite ways.
    """
    description = {"model_quant_type": W8A8} | ({"fa_quant_type": FA_QUANT} if attentions else {})
    waiting, known = set(attentions), set(names)
    for name in names:
        module, _, leaf = name.rpartition(".")
        for attention in [attention for attention in waiting if name.startswith(f"{attention}.")]:
            waiting.remove(attention)
            description.update({f"{attention}.{tensor}": FA_QUANT for tensor in FA_TENSORS})
        if module in norms:
            description.update({f"{module}.{tensor}": kind for tensor, kind in NORM_TENSORS.items()})
        elif module not in quantized:
            description[name] = FLOAT
        elif leaf == "weight":
            first, *others = W8A8_TENSORS
            description[f"{module}.{first}"] = W8A8
            if f"{module}.bias" in known:
                description[f"{module}.bias"] = FLOAT
            description.update({f"{module}.{tensor}": W8A8 for tensor in others})
    return description


def write_description(folder: Path, description: dict[str, str]) -> None:
    """Write the description under the name engines look for now and the one they looked for before."""
    for name in DESCRIPTION_FILES:
        (folder / name).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
