"""Tests checkpoints in FP8: their weights are read as bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli import api, patching
from fa3cli.errors import InvalidInputError
from fa3cli.models.checkpoint import Checkpoint
from fa3cli.models.published.fp8 import Fp8Checkpoint
from tests.models.published.test_conversions import TYPES
from tests.sample_models import WEIGHTS, edit_config, edit_weights, token_ids, write_lines, write_model

SIZES: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 200, "head_dim": 40, "dtype": torch.bfloat16}
BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3", "activation_scheme": "dynamic"}


def in_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in FP8, and its scales, written out block by block."""
    rows, columns = weight.shape
    scale = torch.empty(-(-rows // 128), -(-columns // 128))
    stored = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for row in range(scale.shape[0]):
        for column in range(scale.shape[1]):
            part = (slice(128 * row, 128 * (row + 1)), slice(128 * column, 128 * (column + 1)))
            scale[row, column] = weight[part].float().abs().max() / 448
            stored[part] = (weight[part].float() / scale[row, column]).to(torch.float8_e4m3fn)
    return stored, scale


def is_linear(name: str) -> bool:
    return "proj" in name and name.endswith(".weight")


def to_blocks(tensors: dict[str, Tensor]) -> None:
    for name in list(filter(is_linear, tensors)):
        tensors[name], tensors[f"{name}_scale_inv"] = in_blocks(tensors[name])


def write_blocks(folder: Path, model_type: str, **options: Any) -> Path:
    """A patched model whose linears are stored in FP8."""
    write_model(folder, model_type, patched=False, **options)
    edit_weights(folder, to_blocks)
    edit_config(folder, quantization_config=BLOCK)
    patching.patch(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_blocks(tmp_path / "qwen3", "qwen3", **SIZES)


def test_blocks_are_dequantized(folder: Path) -> None:
    checkpoint, stored = Fp8Checkpoint(Checkpoint(folder)), load_file(folder / WEIGHTS)
    assert checkpoint.tensors.keys() == {name for name in stored if not name.endswith("_scale_inv")}
    for name, found in checkpoint.read(checkpoint.tensors).items():
        if is_linear(name):
            scale = stored[f"{name}_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            rows, columns = found.shape
            expected = (stored[name].float() * scale[:rows, :columns]).bfloat16()
            assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
            assert checkpoint.tensors[name].nbytes == 2 * found.numel()
        else:
            assert torch.equal(found, stored[name])


@pytest.mark.parametrize("shape", [(), (1,), (160,), (160, 1)])
def test_one_scale_per_tensor_or_row(shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3", patched=False, **SIZES)
    name = "model.layers.0.self_attn.q_proj.weight"
    weight, scale = torch.randn(160, 160).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    edit_weights(folder, lambda tensors: tensors.update({name: weight, f"{name}_scale": scale}))
    found = Fp8Checkpoint(Checkpoint(folder)).read([name])[name]
    rows = scale.view(-1, 1) if scale.numel() > 1 else scale
    assert torch.equal(found, (weight.float() * rows).bfloat16())


@pytest.mark.parametrize(
    ("scale", "message"), [(None, "float8 without a scale"), (torch.ones(3, 1), "needs one scale")]
)
def test_a_missing_or_misshapen_scale_is_named(scale: Tensor | None, message: str, folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"

    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{name}_scale_inv"]
        tensors.update({} if scale is None else {f"{name}_scale_inv": scale})

    edit_weights(folder, spoil)
    with pytest.raises(InvalidInputError, match=message) as raised:
        Fp8Checkpoint(Checkpoint(folder)).read([name])
    assert name in str(raised.value)


def test_an_export_has_no_trace_of_fp8(folder: Path, tmp_path: Path) -> None:
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(12, 9))
    output = api.quantize(folder, tmp_path / "out", calib=calib).output
    names = json.loads((output / "quant_model_description.json").read_text())
    assert not any("scale_inv" in name for name in names)
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert api.verify(output).ok
    assert api.compare(output, folder, calib).kl_divergence < 0.2


def test_experts_in_fp8(tmp_path: Path) -> None:
    folder = write_blocks(tmp_path / "qwen3_moe", "qwen3_moe", dtype=torch.bfloat16, **TYPES["qwen3_moe"])
    calib = write_lines(tmp_path / "calib.jsonl", token_ids(12, 9))
    result = api.quantize(folder, tmp_path / "out", calib=calib)
    assert api.verify(result.output).ok
    assert not any("are not of the model" in warning for warning in result.warnings)
