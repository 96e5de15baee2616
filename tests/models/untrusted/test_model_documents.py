from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fa3cli.errors import ConflictError, InvalidInputError
from fa3cli.models.untrusted.model_documents import checked_document


def checked(name: str, data: Any) -> Any:
    return json.loads(checked_document(Path(name), json.dumps(data).encode()))


@pytest.mark.parametrize(
    ("leftover", "kept"),
    [
        ({"tokenizer_file": "/home/x/tokenizer.json"}, {}),
        ({"tokenizer_file": None}, {}),  # transformers 4 would not look for another file
        ({"vocab_file": "vocab.json", "merges_file": "../merges.txt"}, {}),
        ({"special_tokens_map_file": "/home/x/special_tokens_map.json"}, {}),
        ({"source_spm": "/x", "vocab": "/etc/passwd", "merges": "m"}, {}),
        (
            {"sp_model_kwargs": {"model_file": "/etc/passwd", "nbest_size": -1}},
            {"sp_model_kwargs": {"nbest_size": -1}},
        ),
        ({"fast_tokenizer_files": ["tokenizer.4.0.0.json", "/x/tokenizer.4.1.0.json"]}, {}),
        ({"init_inputs": ["/etc/passwd"]}, {}),
    ],
)
def test_paths_are_removed_from_a_tokenizer_config(leftover: dict, kept: dict) -> None:
    assert checked("tokenizer_config.json", {"a": 1, **leftover}) == {"a": 1, **kept}


def test_a_document_without_paths_is_unchanged() -> None:
    text = """{ "name_or_path": "/home/x/m", "model_max_length": 1e30,
        "fast_tokenizer_files": ["tokenizer.4.0.0.json"], "chat_template": "{{ a }}", "vocab": {"a": 1},
        "added_tokens_decoder": {"0": {"content": "/etc/passwd"}}}"""
    assert checked_document(Path("tokenizer_config.json"), text.encode()) == text.encode()


def test_a_tokenizer_in_a_gguf_file_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"tokenizer_config.json: gguf_file is 'a.gguf'") as raised:
        checked("m/tokenizer_config.json", {"gguf_file": "a.gguf"})
    assert raised.value.exit_code == 5
    assert checked("tokenizer_config.json", {"gguf_file": None}) == {}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ({"attn_implementation": "someone/kernel"}, "fetch code of someone/kernel"),
        ({"text_config": {"_attn_implementation": "someone/kernel"}}, "fetch code of someone/kernel"),
    ],
)
def test_a_config_that_refers_to_other_code_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConflictError, match=words) as raised:
        checked("config.json", config)
    assert "--trust-remote-code" in raised.value.hint


@pytest.mark.parametrize("config", [{"num_hidden_layers": 10**9}, {"a": [{"n_layer": -1e9}]}, {"num_experts": 10**30}])
def test_impossible_counts_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="more than any model has"):
        checked("config.json", config)


def test_a_valid_config_is_unchanged() -> None:
    config = {"num_hidden_layers": 80, "vocab_size": 10**7, "layer_norm_eps": 1e-6, "configuration_files": []}
    assert checked("config.json", config) == config


@pytest.mark.parametrize("shards", [None, {"a": "../a.safetensors"}, {"a": "/a.safetensors"}, {"a": "a.bin"}, {"a": 1}])
def test_an_index_may_name_only_safetensors_in_its_folder(shards: Any) -> None:
    with pytest.raises(InvalidInputError, match="index.json"):
        checked("model.safetensors.index.json", {"weight_map": shards})
    sound = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    assert checked("model.safetensors.index.json", sound) == sound


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": ' * 5000, b'{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "x.safetensors.index.json"])
def test_broken_documents_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(InvalidInputError, match=name):
        checked_document(Path(name), data)
