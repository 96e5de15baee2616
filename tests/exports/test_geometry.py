from __future__ import annotations

import pytest

from fa3cli.exports.geometry import config_problems, read_geometry

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}


def test_sizes_of_a_plain_decoder_are_read() -> None:
    geometry = read_geometry(LLAMA)
    assert config_problems(LLAMA) == []
    assert (geometry.heads, geometry.kv_heads, geometry.head_dim) == (8, 2, 8)
    assert (geometry.dtype, geometry.layers, geometry.extra_layers) == ("bfloat16", 4, 0)


def test_an_explicit_head_dim_is_used() -> None:
    assert read_geometry(LLAMA | {"head_dim": 32}).head_dim == 32


def test_the_number_of_kv_heads_defaults_to_that_of_heads() -> None:
    assert read_geometry(LLAMA | {"num_key_value_heads": None}).kv_heads == 8


@pytest.mark.parametrize("key", ["kv_lora_rank", "attn_output_gate"])
def test_unusual_attention_has_no_known_heads(key: str) -> None:
    geometry = read_geometry(LLAMA | {key: 512})
    assert (geometry.heads, geometry.kv_heads, geometry.head_dim) == (None, None, None)


def test_sizes_that_differ_by_layer_are_unknown() -> None:
    config = LLAMA | {"intermediate_size": [128, 256], "num_key_value_heads": [1, 2]}
    geometry = read_geometry(config)
    assert config_problems(config) == []
    assert (geometry.intermediate, geometry.kv_heads) == (None, None)


def test_the_key_dtype_of_newer_transformers_is_read() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "torch_dtype"} | {"dtype": "torch.float16"}
    assert read_geometry(config).dtype == "float16" and config_problems(config) == []


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "8", {}])
def test_an_invalid_size_is_a_problem(value: object) -> None:
    [problem] = config_problems(LLAMA | {"num_attention_heads": value})
    assert "num_attention_heads" in problem and repr(value) in problem
