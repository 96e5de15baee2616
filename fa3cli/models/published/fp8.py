"""Reads checkpoints in FP8: dequantizes a tensor to bfloat16 when it is read, and hides the scales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fa3cli.errors import InvalidInputError
from fa3cli.files.tensors import FP8
from fa3cli.models.checkpoint import Checkpoint, is_finite, not_finite
from fa3cli.models.published.weights import DerivedWeights
from fa3cli.numerics.row_blocks import row_blocks

__all__ = ["BLOCK", "Fp8Checkpoint"]

BLOCK = (128, 128)
"""The size of a block with one scale, if config.json has no `weight_block_size`: that of DeepSeek-V3."""
# Names of the scales beside `weight`, and of those that only a quantized KV cache or static inputs need.
_SCALES = ("weight_scale_inv", "weight_scale")
_OTHERS = (".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale")


class Fp8Checkpoint(DerivedWeights):
    """The tensors of a checkpoint whose weights are float8_e4m3fn with scales, as bfloat16.

    `weight_scale_inv [ceil(out / 128), ceil(in / 128)]` has one scale per block of `block` rows and columns;
    `weight_scale` has one per tensor or per row. Both multiply the weight, despite the name `_inv`. Raises
    InvalidInputError for a weight without a scale, or a scale of another shape.
    """

    _stored: Checkpoint

    def __init__(self, stored: Checkpoint, block: tuple[int, int] = BLOCK) -> None:
        super().__init__(stored)
        self._block = block
        weights = [name for name, info in stored.tensors.items() if info.dtype == FP8]
        self._scales = {name: self._scale_of(name) for name in weights}
        hidden = {*self._scales.values(), *(name for name in stored.tensors if name.endswith(_OTHERS))}
        self.tensors = {
            name: replace(info, dtype="BF16", nbytes=2 * info.nbytes) if name in self._scales else info
            for name, info in stored.tensors.items()
            if name not in hidden
        }

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name, those in FP8 as bfloat16."""
        wanted = list(names)
        read = self._stored.read(name for name in wanted if name not in self._scales)
        for name in wanted:
            if scale := self._scales.get(name):
                weight = self._stored.read_unchecked([name])[name]
                read[name] = self._dequantize(name, weight, self._stored.read([scale])[scale])
        return {name: read[name] for name in wanted}

    def _scale_of(self, name: str) -> str:
        module, _, leaf = name.rpartition(".")
        found = [f"{module}.{scale}" for scale in _SCALES if leaf == "weight"]
        for scale in found:
            if scale in self._stored.tensors:
                return scale
        raise InvalidInputError(
            f"{self._stored.path(name)}: {name} is float8 without a scale; expected {' or '.join(found) or 'a weight'}",
            hint="fetch the model in bfloat16",
        )

    def _dequantize(self, name: str, weight: Tensor, scale: Tensor) -> Tensor:
        """Return `weight [out, in]` times the scale of each value's block, row or tensor, as bfloat16."""
        # A weight of more dimensions has one scale for all values: the check below refuses others.
        matrix = weight.reshape(len(weight), -1)
        (height, width), (rows, columns) = matrix.shape, self._block
        if scale.numel() == 1:
            rows, columns = height, width
        elif not self._scales[name].endswith("_inv"):
            rows, columns = 1, width
        # Rounded up: the last blocks of a row or column may be partial.
        grid = -(-height // rows), -(-width // columns)
        if scale.numel() != 1 and (weight.dim() != 2 or tuple(scale.shape) not in (grid, grid[:1])):
            raise InvalidInputError(
                f"{self._stored.path(name)}: {self._scales[name]} has shape {list(scale.shape)}, but the weight "
                f"{list(weight.shape)} needs one scale per {rows} x {columns} values",
                hint="fetch the model in bfloat16",
            )
        scales, made = scale.float().reshape(grid), torch.empty(matrix.shape, dtype=torch.bfloat16)
        numbers = torch.arange(height) // rows  # of the row of scales for each row of the weight
        for part in row_blocks(matrix):
            # [rows of scales] -> [rows of the part, in]; the last block's repeats are cut off.
            factors = scales[numbers[part]].repeat_interleave(columns, dim=1)[:, :width]
            # Multiplied in float32: the only rounding is that to bfloat16.
            made[part] = matrix[part].float() * factors
        # Checked after the product: float8 has no kernel that finds NaN, and a product may overflow.
        if not is_finite(made):
            raise not_finite(self._stored.path(name), name)
        return made.view(weight.shape)
