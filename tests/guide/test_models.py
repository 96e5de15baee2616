"""Tests opening a script's model, the record of its smoothing, and the log."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from fa3cli import logger
from fa3cli.errors import ConflictError, MissingCapabilityError, UnsupportedError, UsageError
from fa3cli.guide.models import (
    AppliedSmoothing,
    config_of,
    enable_logging,
    folder_of,
    open_layered_model,
    record_smoothing,
    smoothing_of,
)
from tests.guide import load
from tests.sample_models import edit_config, random_model, write_model

NONE = AppliedSmoothing("none", {})
M3 = AppliedSmoothing("m3", {"model.layers.0": {}})
OPTIONS = {"dev_id": None, "fa": False, "reference": False, "trust_remote_code": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}", num_hidden_layers=1)


# ---- opening a model or a folder


def test_a_model_in_memory_has_the_structure_of_its_folder(folder: Path) -> None:
    model = load(folder)
    memory = open_layered_model(model, "cpu", **{**OPTIONS, "fa": True})
    streamed = open_layered_model(folder, "cpu", **{**OPTIONS, "fa": True})
    assert memory.model is model
    assert memory.resident and not streamed.resident
    for field in ("names", "stored", "head", "of_layer", "outside", "before_layers", "dtype", "device"):
        assert getattr(memory, field) == getattr(streamed, field), field
    assert memory.attentions().keys() == streamed.attentions().keys() == {"model.layers.0.self_attn"}


def test_a_device_other_than_that_of_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the model is on cpu, but dev_type is 'npu'"):
        open_layered_model(load(folder), "npu", **OPTIONS)


def test_a_missing_device_for_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="npu:1"):
        open_layered_model(folder, "npu", **{**OPTIONS, "dev_id": 1})


def test_dev_id_is_ignored_for_the_cpu(folder: Path) -> None:
    assert open_layered_model(folder, "cpu", **{**OPTIONS, "dev_id": 0}).device == torch.device("cpu")


def test_a_model_without_quantizers_opens_only_without_fa() -> None:
    model = random_model("llama", num_hidden_layers=1)
    assert open_layered_model(model, "cpu", **OPTIONS).model is model
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM: none of its attention modules") as raised:
        open_layered_model(model, "cpu", **{**OPTIONS, "fa": True})
    assert "fa3 patch" in raised.value.hint


@pytest.mark.parametrize("reference", [False, True])
def test_reference_numerics_of_a_folder_use_eager_attention(folder: Path, reference: bool) -> None:
    model = open_layered_model(folder, "cpu", **{**OPTIONS, "reference": reference}).model
    assert (model.config._attn_implementation == "eager") is reference


def test_edited_code_in_a_folder_runs_only_with_trust(folder: Path) -> None:
    module = folder / "modeling_llama_fa3.py"
    module.write_text(module.read_text() + "\n# mine\n")
    with pytest.raises(ConflictError, match=module.name):
        open_layered_model(folder, "cpu", **{**OPTIONS, "fa": True})
    assert open_layered_model(folder, "cpu", **{**OPTIONS, "fa": True, "trust_remote_code": True}).attentions()


# ---- the folder and config of a model


def test_the_folder_of_a_model_is_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of(folder) == folder_of(str(folder)) == folder_of(load(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert folder_of(folder.name) == folder


def test_a_model_created_without_a_folder_has_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # where a config.json is, of another model
    assert folder_of(random_model("llama", num_hidden_layers=1)) is None


def test_the_config_of_a_folder_is_that_before_the_patch(folder: Path) -> None:
    edit_config(folder, mine=[1, 2])
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for model in (folder, str(folder), load(folder)):
        config = config_of(model)
        assert config["mine"] == [1, 2]
        assert "auto_map" not in config


def test_the_config_of_a_model_without_a_folder_has_all_fields() -> None:
    config = config_of(random_model("llama", num_hidden_layers=1))
    assert config["model_type"] == "llama"
    assert (config["num_hidden_layers"], config["vocab_size"], config["hidden_act"]) == (1, 96, "silu")


# ---- the record of AntiOutlier's smoothing


def test_smoothing_is_recorded_per_model(folder: Path) -> None:
    model, other = load(folder), load(folder)
    assert smoothing_of(model) == NONE
    record_smoothing(model, M3)
    assert smoothing_of(model) is M3
    assert smoothing_of(other) == smoothing_of(folder) == NONE


def test_smoothing_is_copied_with_its_model() -> None:
    model = random_model("llama", num_hidden_layers=1)
    names = list(model.state_dict())
    record_smoothing(model, M3)
    assert smoothing_of(model) is M3 and smoothing_of(copy.deepcopy(model)).anti_method == M3.anti_method
    assert smoothing_of(random_model("llama", num_hidden_layers=1)).anti_method == "none"
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("change", [{}, {"num_hidden_layers": 1}, {"vocab_size": 100}])
def test_the_config_is_that_of_the_folder_unless_a_script_changed_sizes(tmp_path: Path, change: dict[str, int]) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", patched=False)
    model = load(folder)
    for key, value in change.items():
        setattr(model.config, key, value)
    stored = json.loads((folder / "config.json").read_text())
    found = config_of(model)
    assert (found == stored) == (not change)
    assert all(found[key] == value for key, value in change.items())


@pytest.mark.parametrize("path", ["{0}/{1}", "{1}", "link", "./{1}/"])
def test_smoothing_is_recorded_per_folder_for_any_form_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder = tmp_path / f"model-{tmp_path.name}"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    record_smoothing(path.format(tmp_path, folder.name), M3)
    for spelling in (folder, str(folder), folder.name, Path("link"), os.path.join(".", folder.name, "")):
        assert smoothing_of(spelling) is M3, spelling
    assert smoothing_of(tmp_path) == NONE


# ---- the log


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """Reset logging as in a fresh interpreter, within a block: pytest adds and removes handlers during a test."""

    @contextmanager
    def block(*root_handlers: logging.Handler) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger(), "handlers", list(root_handlers))
            patch.setattr(logger, "handlers", [])
            level = logger.level
            logger.setLevel(logging.NOTSET)
            yield
            logger.setLevel(level)

    return block


def test_the_log_is_printed_once_on_stderr(fresh: Callable, capsys: pytest.CaptureFixture) -> None:
    with fresh():
        enable_logging()
        enable_logging()
        logger.info("calibrated %d layers", 3)
    shown = capsys.readouterr()
    assert shown.err.count("fa3 INFO calibrated 3 layers") == 1
    assert shown.out == ""


def test_existing_logging_is_not_changed(fresh: Callable) -> None:
    with fresh(logging.NullHandler()):
        enable_logging()
        assert logger.handlers == []
        assert logger.level == logging.NOTSET


@pytest.mark.parametrize("thing", [None, 3, torch.nn.Linear(2, 2)])
def test_an_object_that_is_not_a_model_is_refused(thing: object) -> None:
    with pytest.raises(UsageError, match="expected a causal LM of transformers"):
        open_layered_model(thing, "cpu", **OPTIONS)
