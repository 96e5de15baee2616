"""Makes the description of an export, which says how every tensor is quantized."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from fa3cli.exports.layout import FLOAT, NORM_TENSORS

__all__ = ["describe"]


def describe(
    names: Sequence[str],
    quantized: Mapping[str, str],
    attentions: Collection[str],
    norms: Collection[str] = (),
    *,
    model_value: str,
    tensors_of: Callable[[str], Sequence[str]],
    attention_settings: Mapping[str, str],
    attention_tensors: Mapping[str, str],
    model_entries: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """Return the description, name -> value: first the keys for the whole model, then all tensors in module order.

    `names` are all tensors of the float model in module order, with tied names. `quantized` maps each quantized linear
    to its value, for which `tensors_of` returns the stored tensors; `model_value` is the value of the whole model.
    `attentions` are the modules with `attention_tensors` (name -> value), `norms` the norms to which AntiOutlier adds
    tensors. `model_entries` are other entries for the whole model.
    """
    # Without attentions the keys are absent, not null: engines read null in opposite ways.
    description: dict[str, object] = {
        "model_quant_type": model_value,
        **(attention_settings if attentions else {}),
        **model_entries,
    }
    waiting, known = set(attentions), set(names)
    for name in names:
        module, _, leaf = name.rpartition(".")
        # As in the reference, FA3's tensors come before the first tensor of their attention module.
        for attention in [module for module in waiting if name.startswith(f"{module}.")]:
            waiting.remove(attention)
            description.update({f"{attention}.{leaf}": kind for leaf, kind in attention_tensors.items()})
        if module in norms:
            description.update({f"{module}.{tensor}": kind for tensor, kind in NORM_TENSORS.items()})
        elif module not in quantized:
            description[name] = FLOAT
        elif leaf == "weight":
            value = quantized[module]
            first, *others = tensors_of(value)
            description[f"{module}.{first}"] = value
            if f"{module}.bias" in known:
                description[f"{module}.bias"] = FLOAT
            description.update({f"{module}.{tensor}": value for tensor in others})
    return description
