"""Defines the names in an export that msModelSlim writes and Ascend engines read."""

from __future__ import annotations

__all__ = [
    "C8",
    "DESCRIPTION_FILES",
    "FA_QUANT",
    "FA_TENSORS",
    "FLOAT",
    "FP8",
    "INDEX_FILE",
    "NORM_TENSORS",
    "W8A8",
    "W8A8_DYNAMIC",
    "W8A8_DYNAMIC_TENSORS",
    "W8A8_TENSORS",
    "WEIGHT_FILE",
]

WEIGHT_FILE = "quant_model_weight_w8a8.safetensors"
INDEX_FILE = f"{WEIGHT_FILE}.index.json"
# Older engine versions read the second name, newer ones the first; both are written, with the same text.
DESCRIPTION_FILES = ("quant_model_description.json", "quant_model_description_w8a8.json")

# Values of the description, one per tensor. Only fa3 uses FP8, for the scales of a target without a description.
FLOAT, W8A8, FA_QUANT, C8, FP8 = "FLOAT", "W8A8", "FAQuant", "C8", "FP8"
W8A8_DYNAMIC = "W8A8_DYNAMIC"

# Tensors of a quantized linear, in the order of the description. The bias of the float linear, if any, comes second.
W8A8_TENSORS = ("weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")
# Tensors of a linear whose activations are quantized at run time, per token.
W8A8_DYNAMIC_TENSORS = W8A8_TENSORS[:3]
# Tensors that FA3 adds to an attention module, in the order of the description.
FA_TENSORS = ("fa_q.scale", "fa_k.scale", "fa_v.scale", "fa_q.offset", "fa_k.offset", "fa_v.offset")

# Tensors of a norm with AntiOutlier m1 to m5: the smoothed weight and a bias of zeros, stored twice.
NORM_TENSORS = {"weight": FLOAT, "bias": FLOAT, "module.weight": W8A8, "module.bias": W8A8}
