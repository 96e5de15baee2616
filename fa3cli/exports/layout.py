"""Defines the names in an export that msModelSlim writes and Ascend engines read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fa3cli.quantization.schemes import DYNAMIC, MIX, STATIC

__all__ = [
    "C8",
    "DESCRIPTION_FILE",
    "FA_QUANT",
    "FA_TENSORS",
    "FLOAT",
    "FP8",
    "LATENT_FA3",
    "LINEAR_TENSORS",
    "LINEAR_VALUES",
    "MODEL_ENTRIES",
    "NORM_TENSORS",
    "OPTIONAL_TENSORS",
    "PARAMETERS_FILE",
    "REPORT_FILE",
    "W8A8",
    "W8A8_DYNAMIC",
    "W8A8_DYNAMIC_TENSORS",
    "W8A8_MIX",
    "W8A8_TENSORS",
    "WEIGHT_NAMES",
    "AttentionForm",
    "model_value",
]

# Older engine versions read a name that ends with the value of the model, newer ones this one; both have the same text.
DESCRIPTION_FILE = "quant_model_description.json"
# Names of weights without the value of the model: of msModelSlim's newer savers, ascendv1 and (in shards) mindie_format.
WEIGHT_NAMES = ("quant_model_weights", "quant_model_weight")
# Written by fa3 beside the weights of each target.
REPORT_FILE = "fa3_report.json"
# The parameters that fa3 calibrate writes instead of weights.
PARAMETERS_FILE = "fa3_parameters.safetensors"

# Values of the description, one per tensor. Only fa3 uses FP8, for the scales of a target without a description.
FLOAT, FA_QUANT, C8, FP8 = "FLOAT", "FAQuant", "C8", "FP8"
# Entries for the whole model that msModelSlim's newer saver, ascendv1, always writes; the older one has none of them.
MODEL_ENTRIES: Mapping[str, object] = {"version": "1.0.0", "group_size": 0, "metadata": {}, "optional": {}}
W8A8, W8A8_DYNAMIC, W8A8_MIX = STATIC.value, DYNAMIC.value, MIX.value

# Tensors of a quantized linear, in the order of the description. The bias of the float linear, if any, comes second.
W8A8_TENSORS = ("weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")
# Tensors of a linear whose activations are quantized at run time, per token.
W8A8_DYNAMIC_TENSORS = W8A8_TENSORS[:3]
# The tensors of a quantized linear by its value; the values in the order in which one names the whole model.
LINEAR_TENSORS = {W8A8_DYNAMIC: W8A8_DYNAMIC_TENSORS, W8A8_MIX: W8A8_TENSORS, W8A8: W8A8_TENSORS}
# Tensors that all linears of a value may lack, as in exports of ascendv1: Ascend engines compute with deq_scale instead.
OPTIONAL_TENSORS = {W8A8: ("weight_scale", "weight_offset")}
# Tensors that FA3 adds to an attention module, in the order of the description.
FA_TENSORS = ("fa_q.scale", "fa_k.scale", "fa_v.scale", "fa_q.offset", "fa_k.offset", "fa_v.offset")

# Tensors of a norm with AntiOutlier m1 to m5: the smoothed weight and a bias of zeros, stored twice.
NORM_TENSORS = {"weight": FLOAT, "bias": FLOAT, "module.weight": W8A8, "module.bias": W8A8}
LINEAR_VALUES = tuple(LINEAR_TENSORS)


@dataclass(frozen=True)
class AttentionForm:
    """A form of the parameters of attention modules: their tensors, the value of these, and the entries for the model."""

    tensors: tuple[str, ...]
    value: str
    settings: Mapping[str, str]
    latent: bool = False
    """Whether the form is for multi-head latent attention, whose K and V are one head for all heads of Q."""


# FA3 of latent attention, as ascendv1 writes it and vLLM-Ascend reads it.
LATENT_FA3 = AttentionForm(FA_TENSORS, FA_QUANT, {"fa_quant_type": "FAKQuant"}, latent=True)


def model_value(values: Iterable[str]) -> str:
    """Return the value that names a whole model, from those of its linears."""
    found = set(values)
    return next((value for value in LINEAR_TENSORS if value in found), W8A8)
