"""Tests save type numpy: the guide's files and its way to read them, with all tensors of the safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fa3cli.exports.numpy_files import write_numpy
from tests.exports.test_target_export import ATTENTIONS, quantizable, stored_tensors, write_export
from tests.golden import ABSENT, case_file, cases

WITH_NUMPY = [name for name, case in cases().items() if "numpy" in case["save_type"]]
LEAVES = ("weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")
FILES = {"quant_weight", *LEAVES, "fa_quant_scale", "fa_quant_offset"}


def read(folder: Path, file: str) -> dict[str, Tensor]:
    return np.load(folder / f"{file}.npy", allow_pickle=True).item()


def same(found: Tensor, expected: Tensor) -> bool:
    return type(found) is Tensor and found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part_bytes", [None, 20_000])
def test_every_tensor_is_in_the_file_named_by_the_guide(
    tmp_path: Path, dtype: torch.dtype, part_bytes: int | None
) -> None:
    tensors, files = write_export(tmp_path, dtype, part_bytes=part_bytes)
    write_numpy(tmp_path, files)
    assert {path.stem for path in tmp_path.glob("*.npy")} == FILES

    remaining = stored_tensors(files)
    for leaf in LEAVES:
        parameters = read(tmp_path, leaf)
        assert parameters.keys() == quantizable(tensors)
        assert all(same(value, remaining.pop(f"{module}.{leaf}")) for module, value in parameters.items())
    for leaf in ("scale", "offset"):
        parameters = read(tmp_path, f"fa_quant_{leaf}")
        assert parameters.keys() == {f"{attention}.fa_{role}.{leaf}" for attention in ATTENTIONS for role in "qkv"}
        assert all(same(value, remaining.pop(name)) for name, value in parameters.items())
    # The rest are int8 and float weights, under module names, and float biases, which have no separate file.
    weights = read(tmp_path, "quant_weight")
    assert weights.keys() == {name.removesuffix(".weight") for name in remaining}
    assert all(same(weights[name.removesuffix(".weight")], value) for name, value in remaining.items())
    q_proj = "model.layers.0.self_attn.q_proj"
    assert weights[q_proj].dtype == torch.int8
    assert same(weights[f"{q_proj}.bias"], tensors[f"{q_proj}.bias"])
    assert same(weights["lm_head"], tensors["lm_head.weight"])


def test_keys_are_in_module_order(tmp_path: Path) -> None:
    tensors, files = write_export(tmp_path, torch.float32, part_bytes=20_000)
    write_numpy(tmp_path, files)
    assert list(read(tmp_path, "quant_weight")) == [name.removesuffix(".weight") for name in tensors]


def test_a_tied_weight_is_stored_once(tmp_path: Path) -> None:
    _, files = write_export(tmp_path, torch.float32, tied=True)
    write_numpy(tmp_path, files)
    weights = read(tmp_path, "quant_weight")
    assert "model.embed_tokens" in weights and "lm_head" not in weights


def test_without_fa_there_are_no_fa_files(tmp_path: Path) -> None:
    _, files = write_export(tmp_path, torch.float32, attentions=())
    write_numpy(tmp_path, files)
    assert {path.stem for path in tmp_path.glob("*.npy")} == {"quant_weight", *LEAVES}


def test_numpy_values_do_not_need_the_weight_files(tmp_path: Path) -> None:
    """With --save-type numpy alone the safetensors are removed."""
    tensors, files = write_export(tmp_path, torch.float32)
    write_numpy(tmp_path, files)
    for file in files:
        file.unlink()
    assert same(read(tmp_path, "quant_weight")["lm_head"], tensors["lm_head.weight"])


@ABSENT
@pytest.mark.parametrize("name", WITH_NUMPY)
def test_numpy_files_equal_those_of_the_guides_tool(tmp_path: Path, name: str) -> None:
    weights = "quant_model_weight_w8a8.safetensors"
    shutil.copyfile(case_file(name, weights), tmp_path / weights)
    description = json.loads(case_file(name, "quant_model_description_w8a8.json").read_text())
    (tmp_path / "quant_model_description.json").write_text(json.dumps(description))
    write_numpy(tmp_path, [tmp_path / weights])
    for file in FILES:
        found = read(tmp_path, file)
        expected = read(case_file(name, ""), file)
        biased = {key.removesuffix(".bias") for key in found if key.endswith(".bias")}
        for key, value in expected.items():
            if file == "quant_weight" and key in biased:
                # In the tool's file, weight and bias have the same key, and the bias replaces the weight (NUMERICS.md).
                assert torch.equal(found[f"{key}.bias"], value) and found[key].dim() == 2
            else:
                assert found[key].dtype == value.dtype and torch.equal(found[key], value), (file, key)
        # The tool always stores norms in anti_fp_norm.npy; by the guide, that file exists only with AntiOutlier.
        norms = {key for key in found if key.endswith("norm")}
        assert found.keys() - norms - {f"{key}.bias" for key in biased} == expected.keys()
