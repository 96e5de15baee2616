"""Recognises checkpoints that are quantized already: FP8 is read, all others are refused with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.files.tensors import FP8
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.published.fp8 import BLOCK, Fp8Checkpoint
from fa3cli.models.published.weights import Weights
from fa3cli.patching.folders.model_folder import GIVE_FLOAT_MODEL

__all__ = ["float_weights"]

# quant_method in config.json -> what such a checkpoint is.
_METHODS = {
    "awq": "an AWQ checkpoint (int4 weights)",
    "gptq": "a GPTQ checkpoint (packed integer weights)",
    "bitsandbytes": "a bitsandbytes checkpoint",
    "gguf": "a GGUF checkpoint",
    "mxfp4": "an MXFP4 checkpoint (float4 weights)",
    "compressed-tensors": "a compressed-tensors checkpoint",
}


def float_weights(checkpoint: Checkpoint, config: Any) -> Weights:
    """Return a checkpoint as float weights: itself, or FP8 weights dequantized to bfloat16.

    Raises UnsupportedError for a checkpoint of another quantization, by config.json's `quantization_config`.
    """
    quantization_config = getattr(config, "quantization_config", None)
    if not quantization_config:
        return checkpoint
    # A dict as in config.json, or an object that a config class of transformers made of it.
    if not isinstance(quantization_config, Mapping):
        quantization_config = quantization_config.to_dict()
    method = quantization_config.get("quant_method")
    fp8 = any(info.dtype == FP8 for info in checkpoint.tensors.values())
    # compressed-tensors is a container of several formats, of which fa3 reads only float8.
    if method == "fp8" or (method == "compressed-tensors" and fp8):
        return Fp8Checkpoint(checkpoint, _block_size(quantization_config, checkpoint.folder))
    what = _METHODS.get(str(method), f"quantized by {method!r}")
    raise UnsupportedError(
        f"{checkpoint.folder / 'config.json'}: quantization_config says that this is {what}", hint=GIVE_FLOAT_MODEL
    )


def _block_size(quantization_config: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    block = quantization_config.get("weight_block_size") or BLOCK
    if not (
        isinstance(block, (list, tuple))
        and len(block) == 2
        and all(isinstance(size, int) and size > 0 for size in block)
    ):
        raise InvalidInputError(f"{folder / 'config.json'}: weight_block_size is {block!r:.60}, expected two sizes")
    return block[0], block[1]
