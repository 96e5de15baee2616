"""Tests that an export for MindIE-SD has the form of its loader: one file, a description, dynamic linears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fa3cli.exports.layout import FA_TENSORS
from fa3cli.exports.verification import verify_export
from tests.exports.pipelines import ATTENTIONS, HEADS, NAMES, QUANTIZED, flux, write_flux

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WEIGHTS = "quant_model_weight_w8a8_dynamic.safetensors"
DESCRIPTION = "quant_model_description_w8a8_dynamic.json"


@pytest.mark.parametrize("dtype", DTYPES)
def test_verification_finds_nothing(dtype: torch.dtype, tmp_path: Path) -> None:
    write_flux(tmp_path, dtype)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, DESCRIPTION, "config.json"}
    report = verify_export(tmp_path)
    assert report.target == "mindie-sd" and report.findings == ()
    assert {check.status for check in report.checks} == {"passed"}


@pytest.mark.parametrize(
    ("quantized", "attentions"), [(QUANTIZED[1::2], ATTENTIONS[1:]), ([], ATTENTIONS), (QUANTIZED, [])]
)
def test_any_module_may_stay_float(quantized: list[str], attentions: list[str], tmp_path: Path) -> None:
    tensors, description, _ = write_flux(tmp_path, quantized=quantized, attentions=attentions)
    assert verify_export(tmp_path).findings == ()
    assert ("fa_quant_type" in description) == bool(attentions)  # absent, never null
    assert {name for name, tensor in tensors.items() if description[name] == "FLOAT"} == {
        name for name in NAMES if name.removesuffix(".weight") not in quantized
    }


def test_the_description_is_in_module_order(tmp_path: Path) -> None:
    _, description, _ = write_flux(tmp_path)
    assert list(description)[:2] == ["model_quant_type", "fa_quant_type"]
    assert description.pop("model_quant_type") == "W8A8_DYNAMIC"
    assert description.pop("fa_quant_type") == "FAQuant"
    expected = []
    for name in NAMES:
        module = name.removesuffix(".weight")
        if name.endswith(".attn.to_q.weight"):
            expected += [(f"{module.removesuffix('.to_q')}.{leaf}", "FAQuant") for leaf in FA_TENSORS]
        if module in QUANTIZED:
            expected += [(name, "W8A8_DYNAMIC"), (f"{module}.bias", "FLOAT")]
            expected += [(f"{module}.weight_{leaf}", "W8A8_DYNAMIC") for leaf in ("scale", "offset")]
        elif name.removesuffix(".bias") not in QUANTIZED:
            expected.append((name, "FLOAT"))
    assert list(description.items()) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_have_the_dtypes_and_shapes_that_the_loader_expects(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = flux(dtype)
    torch.manual_seed(0)
    tensors, description, _ = write_flux(tmp_path, dtype)
    assert tensors.keys() == {name for name in description if name in tensors or "." in name}
    for module in QUANTIZED:
        weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
        assert weight.dtype == torch.int8 and weight.min() >= -127
        assert scale.dtype == dtype and scale.shape == (len(weight), 1)
        assert not tensors[f"{module}.weight_offset"].any()
        error = (weight * scale.float() - given[f"{module}.weight"].float()).abs()
        assert (error <= 0.51 * scale.float() + 2**-7 * given[f"{module}.weight"].float().abs()).all()
    for name in (name for name, value in description.items() if value == "FLOAT"):
        assert torch.equal(tensors[name], given[name])
    for attention in ATTENTIONS:
        for role in "qkv":
            scale, offset = (tensors[f"{attention}.fa_{role}.{leaf}"] for leaf in ("scale", "offset"))
            assert scale.dtype == dtype and scale.shape == offset.shape == (HEADS, 1)
            assert offset.dtype == torch.int8 and not offset.any()


def test_the_transformer_config_names_its_quantization(tmp_path: Path) -> None:
    _, _, config = write_flux(tmp_path)
    assert config["_class_name"] == "FluxTransformer2DModel"
    assert (config["quantize"], config["torch_dtype"]) == ("w8a8_dynamic", "bfloat16")
    assert json.loads((tmp_path / "config.json").read_text()) == config
