"""Tests that scales of q, k and v are found under the names of each target."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fa3cli.report.head_scales import largest_code, read_head_scales
from fa3cli.report.stored import open_stored
from tests.report.exports import write_config

ATTENTION = "model.layers.3.self_attn"
Q, KV = torch.tensor([0.5, 0.25, 0.125, 1.0]), torch.tensor([2.0, 4.0])
TARGETS = {
    "modelslim": {f"fa_{role}.scale": scale[:, None] for role, scale in zip("qkv", (Q, KV, KV), strict=True)},
    "vllm-ascend": {f"{role}_proj.kv_cache_scale": KV.repeat_interleave(8) for role in "kv"},
    "vllm": {f"{role}_scale": scale[:, None, None] for role, scale in zip("qkv", (Q, KV, KV), strict=True)},
}


def scales_of(folder: Path, tensors: dict[str, Tensor]):
    """Return what is found in an export that holds these tensors in one attention module."""
    weights = {f"{ATTENTION}.o_proj.weight": torch.zeros(1, 1, dtype=torch.int8)}
    save_file(
        {f"{ATTENTION}.{name}": value.clone() for name, value in tensors.items()} | weights,
        folder / "model.safetensors",
    )
    write_config(folder, layers=4, heads=4, kv_heads=2, head_dim=8)
    return read_head_scales(open_stored(folder).contents)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_scale_per_head_is_found(tmp_path: Path, target: str, dtype: torch.dtype) -> None:
    scales, remarks = scales_of(tmp_path, {name: value.to(dtype) for name, value in TARGETS[target].items()})
    values = {scale.role: scale.values for scale in scales}
    assert remarks == []
    assert values.pop("q", tuple(Q.tolist())) == tuple(Q.tolist())
    assert values == {"k": (2.0, 4.0), "v": (2.0, 4.0)}
    assert {(scale.layer, scale.module) for scale in scales} == {("model.layers.3", ATTENTION)}
    assert largest_code(scales) == (448 if target == "vllm" else 127)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_an_unusable_scale_is_named(tmp_path: Path, bad: float) -> None:
    scales, [remark] = scales_of(tmp_path, {"fa_k.scale": torch.tensor([[0.5], [bad]])})
    assert scales[0].values == (0.5, bad if math.isfinite(bad) else None)
    assert f"{ATTENTION}.fa_k.scale" in remark and "head 1" in remark


def test_scales_that_do_not_fit_the_heads_are_named(tmp_path: Path) -> None:
    scales, [remark] = scales_of(tmp_path, {"k_proj.kv_cache_scale": torch.ones(15)})
    assert scales == [] and "15 values" in remark


def test_tensors_too_large_for_scales_are_not_read(tmp_path: Path) -> None:
    scales, [remark] = scales_of(tmp_path, {"q_scale": torch.ones(512, 256)})
    assert scales == [] and "[512, 256]" in remark
