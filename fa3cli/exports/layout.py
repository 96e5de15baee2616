"""Names of an export as msModelSlim writes them and Ascend engines look for them."""

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
# Engines moved from the second name to the first; both are written, with the same text.
DESCRIPTION_FILES = ("quant_model_description.json", "quant_model_description_w8a8.json")

# Values of the description, one a tensor. FP8 is ours, for the scales of a target without a description.
FLOAT, W8A8, FA_QUANT, C8, FP8 = "FLOAT", "W8A8", "FAQuant", "C8", "FP8"
W8A8_DYNAMIC = "W8A8_DYNAMIC"

# What a quantized linear is stored as, in the order of the description. Its own bias, if it has one, comes second.
W8A8_TENSORS = (
    "weight",
    "weight_scale",
    "weight_offset",
    "input_scale",
    "input_offset",
    "quant_bias",
    "deq_scale",
)
# The same of one whose activations are quantized at run time, a token at a time.
W8A8_DYNAMIC_TENSORS = W8A8_TENSORS[:3]
# What FA3 adds to an attention module, in the order of the description.
FA_TENSORS = ("fa_q.scale", "fa_k.scale", "fa_v.scale", "fa_q.offset", "fa_k.offset", "fa_v.offset")

# What a norm is stored as with AntiOutlier m1 to m5: its smoothed weight and a bias of zeros, each twice.
NORM_TENSORS = {"weight": FLOAT, "bias": FLOAT, "module.weight": W8A8, "module.bias": W8A8}
