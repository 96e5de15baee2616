"""Tests which targets and save types are accepted for which kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa3cli.errors import ConflictError, UnsupportedError, UsageError
from fa3cli.runs.destination import default_output, where_to_save
from fa3cli.runs.options import RunOptions


def test_the_target_of_a_pipeline_is_mindie_sd() -> None:
    destination = where_to_save(RunOptions(), pipelines=True)
    assert [target.name for target in destination.pop("targets")] == ["mindie-sd"]
    assert destination == {"save_types": ("safe_tensor",), "part_bytes": None}
    assert [target.name for target in where_to_save(RunOptions(part_file_size=1.5))["targets"]] == ["modelslim"]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"target": ["vllm"]}, "vllm: is for language models", "choose mindie-sd"),
        ({"target": "mindie-sd", "save_types": ["numpy"]}, "save_type numpy", "use save_type safe_tensor"),
        ({"part_file_size": 4.0}, "opens one weight file", "omit part_file_size"),
    ],
)
def test_options_unsupported_by_mindie_sd_are_refused(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as raised:
        where_to_save(RunOptions(**options), pipelines=True)
    assert raised.value.hint == hint


def test_mindie_sd_is_refused_for_a_language_model() -> None:
    with pytest.raises(UnsupportedError, match="not language models"):
        where_to_save(RunOptions(target=["mindie-sd"]))


def test_an_invalid_part_size_is_a_usage_error_for_any_target() -> None:
    with pytest.raises(UsageError, match="part_file_size"):
        where_to_save(RunOptions(part_file_size=0), pipelines=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["vllm"], "kv_cache_scheme": "channel"}, "'channel': expected none, tensor, attn_head"),
        ({"kv_cache_scheme": "tensor"}, "target vllm only"),
        ({"target": ["vllm"], "kv_cache_scheme": "tensor", "fa": False}, "--no-fa leaves them out"),
        ({"target": ["vllm"], "fa": True}, "only with a --kv-cache-scheme"),
    ],
)
def test_a_contradicting_kv_cache_scheme_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        where_to_save(RunOptions(**options))


@pytest.mark.parametrize(("scheme", "stores"), [(None, False), ("none", False), ("tensor", True), ("attn_head", True)])
def test_target_vllm_stores_scales_as_the_scheme_says(scheme: str | None, stores: bool) -> None:
    ascend, vllm = where_to_save(RunOptions(target=["vllm", "mindie"], kv_cache_scheme=scheme, fa=stores or None))[
        "targets"
    ]
    assert (ascend.name, vllm.name) == ("mindie", "vllm")
    assert vllm.stores_attention == stores and vllm.options == {"kv_cache_scheme": scheme or "none"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").touch()
    (folder / "model.safetensors").touch()
    return folder


def test_an_output_beside_or_directly_in_the_weights_folder_is_accepted(weights: Path) -> None:
    for output in (None, weights.parent / "out", weights / "out", weights / "runs" / "one" / "two"):
        assert default_output(weights, output).name in ("weights-w8a8-fa3", "out", "two")
    (weights / "runs" / "other").mkdir(parents=True)
    assert default_output(weights, weights / "runs" / "one") == weights / "runs" / "one"


def test_the_weights_folder_is_refused_as_output(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights.parent / "link").symlink_to(weights)
    monkeypatch.chdir(weights)
    for output in (weights, ".", weights / "transformer" / "..", weights.parent / "link"):
        with pytest.raises(ConflictError, match="is the weights folder, which fa3 never writes into") as error:
            default_output(weights, output)
        assert error.value.hint == "choose another --output"


@pytest.mark.parametrize("place", ["transformer/out", "transformer/deep/out", "transformer/config.json/out"])
def test_an_output_among_the_files_of_a_model_is_refused(weights: Path, place: str) -> None:
    with pytest.raises(ConflictError, match="which belongs to the weights folder"):
        default_output(weights, weights / place)
