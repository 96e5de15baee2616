"""Tests that the target of an export is found from its report or its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fa3cli.exports.recognition import recognize_target
from fa3cli.exports.targets import TARGETS


def write(folder: Path, **documents: object) -> None:
    for name, content in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("target", TARGETS)
def test_the_report_names_the_target(target: str, tmp_path: Path) -> None:
    write(tmp_path, fa3_report={"target": target}, config={})
    assert recognize_target(tmp_path).name == target


@pytest.mark.parametrize("target", ["sglang", None, ["vllm"]])
def test_a_report_with_an_unknown_target_is_ignored(target: object, tmp_path: Path) -> None:
    write(tmp_path, fa3_report={"target": target}, quant_model_description={"kv_cache_type": None})
    assert recognize_target(tmp_path).name == "vllm-ascend"


def test_compressed_tensors_is_recognised_as_vllm(tmp_path: Path) -> None:
    write(tmp_path, config={"quantization_config": {"quant_method": "compressed-tensors"}})
    assert recognize_target(tmp_path).name == "vllm"


@pytest.mark.parametrize("name", ["quant_model_description", "quant_model_description_w8a8"])
def test_c8_is_recognised_as_vllm_ascend(name: str, tmp_path: Path) -> None:
    write(tmp_path, **{name: {"kv_cache_type": "C8"}})
    assert recognize_target(tmp_path).name == "vllm-ascend"


@pytest.mark.parametrize(
    "file", ["quant_model_description_w8a8_dynamic.json", "quant_model_weight_w8a8_dynamic.safetensors"]
)
def test_w8a8_dynamic_is_recognised_as_mindie_sd(file: str, tmp_path: Path) -> None:
    write(tmp_path, config={"_class_name": "FluxTransformer2DModel"})
    (tmp_path / file).touch()
    assert recognize_target(tmp_path).name == "mindie-sd"


def test_modelslim_is_the_default_target(tmp_path: Path) -> None:
    write(tmp_path, config={"quantization_config": []})
    assert recognize_target(tmp_path).name == "modelslim"
    assert recognize_target(tmp_path / "nowhere").name == "modelslim"
