"""Tests which files an export holds beside its weights, and which entries its config.json keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fa3cli.exports.companions import companions, exported_config


def test_companions_are_the_files_that_an_engine_needs(tmp_path: Path) -> None:
    wanted = {
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "qwen.tiktoken",
        "configuration_mine.py",
        "modeling_mine.py",
        "LICENSE",
    }
    left_behind = {
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "modeling_qwen2_fa3.py",
        "quant_model_description.json",
        "README.md",
    }
    for name in wanted | left_behind:
        (tmp_path / name).touch()
    (tmp_path / "tokenizer_files").mkdir()
    (tmp_path / ".fa3").mkdir()
    found = companions(tmp_path)
    # No file twice, although tokenizer.model matches two patterns; sorted, since file systems give any order.
    assert found == sorted(tmp_path / name for name in wanted)


def test_a_linked_companion_counts_unless_the_link_is_broken(tmp_path: Path) -> None:
    """Download caches hold links to the files."""
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "blob").write_text("{}")
    (source / "tokenizer.json").symlink_to(tmp_path / "blob")
    (source / "merges.txt").symlink_to(tmp_path / "absent")
    assert companions(source) == [source / "tokenizer.json"]


QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    "torch_dtype": "bfloat16",
    "name": "通义",
}


def exported(config: dict, dtype: torch.dtype = torch.bfloat16) -> dict:
    return exported_config(config, dtype)


def test_config_keeps_its_keys() -> None:
    before = json.dumps(QWEN2)
    assert exported(QWEN2) == QWEN2
    assert json.dumps(QWEN2) == before


def test_an_existing_quantization_config_is_removed() -> None:
    assert "quantization_config" not in exported(QWEN2 | {"quantization_config": {"quant_method": "x"}})


@pytest.mark.parametrize(
    ("auto_map", "expected"),
    [
        (None, None),
        ({}, None),
        ({"AutoModelForCausalLM": "modeling_qwen2_fa3.Qwen2ForCausalLM"}, None),
        (
            {"AutoConfig": "configuration_mine.C", "AutoModelForCausalLM": "modeling_mine_fa3.M"},
            {"AutoConfig": "configuration_mine.C"},
        ),
        ({"AutoModelForCausalLM": "modeling_mine.M"}, {"AutoModelForCausalLM": "modeling_mine.M"}),
        ({"AutoTokenizer": ["tokenization_mine.T", None]}, {"AutoTokenizer": ["tokenization_mine.T", None]}),
    ],
)
def test_only_the_models_own_code_stays_in_auto_map(auto_map: object, expected: object) -> None:
    found = exported(QWEN2 | {"auto_map": auto_map})
    assert found.get("auto_map") == expected
    assert ("auto_map" in found) == (expected is not None)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["torch_dtype"], ["torch_dtype"]),
        (["dtype"], ["dtype"]),
        (["dtype", "torch_dtype"], ["dtype", "torch_dtype"]),
        ([], ["torch_dtype"]),
    ],
)
def test_every_dtype_key_names_the_dtype_of_the_export(keys: list[str], expected: list[str]) -> None:
    found = exported({"model_type": "llama", **dict.fromkeys(keys, "bfloat16")}, torch.float16)
    assert {key: value for key, value in found.items() if "dtype" in key} == dict.fromkeys(expected, "float16")
