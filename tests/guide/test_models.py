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
    Smoothed,
    config_of,
    folder_of,
    opened,
    remember_smoothed,
    smoothed,
    talk,
)
from tests.guide import load
from tests.sample_models import edit_config, random_model, write_model

NONE = Smoothed("none", {})
M3 = Smoothed("m3", {"model.layers.0": {}})
OPTIONS = {"dev_id": None, "fa": False, "reference": False, "trust_remote_code": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}", num_hidden_layers=1)


# ---- a model or a folder, opened


def test_a_model_in_memory_and_its_folder_open_alike(folder: Path) -> None:
    model = load(folder)
    memory = opened(model, "cpu", **{**OPTIONS, "fa": True})
    streamed = opened(folder, "cpu", **{**OPTIONS, "fa": True})
    assert memory.model is model
    assert memory.resident and not streamed.resident
    for what in ("names", "stored", "head", "of_layer", "outside", "before_layers", "dtype", "device"):
        assert getattr(memory, what) == getattr(streamed, what), what
    assert memory.attentions().keys() == streamed.attentions().keys() == {"model.layers.0.self_attn"}


def test_another_device_than_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the model is on cpu, but dev_type is 'npu'"):
        opened(load(folder), "npu", **OPTIONS)


def test_a_device_for_a_folder_that_is_not_here(folder: Path) -> None:
    with pytest.raises(MissingCapabilityError, match="npu:1"):
        opened(folder, "npu", **{**OPTIONS, "dev_id": 1})


def test_dev_id_says_nothing_about_the_cpu(folder: Path) -> None:
    assert opened(folder, "cpu", **{**OPTIONS, "dev_id": 0}).device == torch.device("cpu")


def test_a_model_without_quantizers_opens_only_without_fa() -> None:
    model = random_model("llama", num_hidden_layers=1)
    assert opened(model, "cpu", **OPTIONS).model is model
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM: none of its attention modules") as raised:
        opened(model, "cpu", **{**OPTIONS, "fa": True})
    assert "fa3 patch" in raised.value.hint


@pytest.mark.parametrize("reference", [False, True])
def test_the_reference_of_a_folder_runs_eager_attention(folder: Path, reference: bool) -> None:
    model = opened(folder, "cpu", **{**OPTIONS, "reference": reference}).model
    assert (model.config._attn_implementation == "eager") is reference


def test_code_in_a_folder_that_was_edited_runs_only_if_trusted(folder: Path) -> None:
    module = folder / "modeling_llama_fa3.py"
    module.write_text(module.read_text() + "\n# mine\n")
    with pytest.raises(ConflictError, match=module.name):
        opened(folder, "cpu", **{**OPTIONS, "fa": True})
    assert opened(folder, "cpu", **{**OPTIONS, "fa": True, "trust_remote_code": True}).attentions()


# ---- where a model came from


def test_the_folder_of_a_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of(folder) == folder_of(str(folder)) == folder_of(load(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert folder_of(folder.name) == folder


def test_a_model_made_without_a_folder_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)  # where a config.json is, of another model
    assert folder_of(random_model("llama", num_hidden_layers=1)) is None


def test_the_config_of_a_folder_is_that_before_the_patch(folder: Path) -> None:
    edit_config(folder, mine=[1, 2])
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for model in (folder, str(folder), load(folder)):
        config = config_of(model)
        assert config["mine"] == [1, 2]
        assert "auto_map" not in config


def test_the_config_of_a_model_without_a_folder_holds_all_its_fields() -> None:
    config = config_of(random_model("llama", num_hidden_layers=1))
    assert config["model_type"] == "llama"
    assert (config["num_hidden_layers"], config["vocab_size"], config["hidden_act"]) == (1, 96, "silu")


# ---- what AntiOutlier did, kept until Calibrator asks


def test_smoothing_is_kept_by_model(folder: Path) -> None:
    model, other = load(folder), load(folder)
    assert smoothed(model) == NONE
    remember_smoothed(model, M3)
    assert smoothed(model) is M3
    assert smoothed(other) == smoothed(folder) == NONE


def test_smoothing_goes_with_its_model_and_its_copies() -> None:
    model = random_model("llama", num_hidden_layers=1)
    names = list(model.state_dict())
    remember_smoothed(model, M3)
    assert smoothed(model) is M3 and smoothed(copy.deepcopy(model)).anti_method == M3.anti_method
    assert smoothed(random_model("llama", num_hidden_layers=1)).anti_method == "none"
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("change", [{}, {"num_hidden_layers": 1}, {"vocab_size": 100}])
def test_the_config_is_the_folders_unless_the_script_changed_its_sizes(
    tmp_path: Path, change: dict[str, int]
) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", patched=False)
    model = load(folder)
    for key, value in change.items():
        setattr(model.config, key, value)
    stored = json.loads((folder / "config.json").read_text())
    found = config_of(model)
    assert (found == stored) == (not change)
    assert all(found[key] == value for key, value in change.items())


@pytest.mark.parametrize("said", ["{0}/{1}", "{1}", "link", "./{1}/"])
def test_smoothing_is_kept_by_folder_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    folder = tmp_path / f"model-{tmp_path.name}"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    remember_smoothed(said.format(tmp_path, folder.name), M3)
    for way in (folder, str(folder), folder.name, Path("link"), os.path.join(".", folder.name, "")):
        assert smoothed(way) is M3, way
    assert smoothed(tmp_path) == NONE


# ---- the log


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """Logging as in a fresh interpreter, within a block: pytest's own handlers come and go with a test's phases."""

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


def test_the_log_is_seen_on_stderr_once(fresh: Callable, capsys: pytest.CaptureFixture) -> None:
    with fresh():
        talk()
        talk()
        logger.info("calibrated %d layers", 3)
    shown = capsys.readouterr()
    assert shown.err.count("fa3 INFO calibrated 3 layers") == 1
    assert shown.out == ""


def test_logging_that_was_set_up_is_left_alone(fresh: Callable) -> None:
    with fresh(logging.NullHandler()):
        talk()
        assert logger.handlers == []
        assert logger.level == logging.NOTSET


@pytest.mark.parametrize("thing", [None, 3, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(thing: object) -> None:
    with pytest.raises(UsageError, match="expected a causal LM of transformers"):
        opened(thing, "cpu", **OPTIONS)
