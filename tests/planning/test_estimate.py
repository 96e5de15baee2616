from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fa3cli.planning import estimate
from fa3cli.planning.estimate import BYTES_PER_SECOND, estimate_seconds
from fa3cli.planning.plan import plan
from fa3cli.runs.job import Job
from fa3cli.runs.passes import calibrate
from tests.sample_models import prepare, token_ids, write_config, write_lines, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def job(folder: Path, **options: Any) -> Job:
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(9, 17, 5, 5, 5, 5, 5))
    return prepare(folder, calib=calib, only_plan=True, **{"recipe": "none"} | options)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({}, 51),
        ({"act_method": 3}, 51 + 41),
        ({"anti_method": "m3"}, 51 + 9),
        ({"disable_level": "L1"}, 51 + 41),
        ({"anti_method": "m4", "act_method": 3, "disable_level": "L1"}, 51 + 51 + 41),
    ],
)
def test_the_estimate_counts_every_layer_and_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], passed: int
) -> None:
    monkeypatch.setattr(estimate, "_time_layer", lambda _: estimate._LayerTime(once=100.0, token=2.0))
    found = job(folder, **options)
    planned = plan(found)
    disk = (planned.bytes_read + planned.bytes_written) / BYTES_PER_SECOND
    assert estimate_seconds(found, planned) == pytest.approx(3 * (100 + 2 * passed) + disk)


@pytest.mark.parametrize("numerics", ["improved", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"act_method": 2},
        {"act_method": 3, "anti_method": "m3", "disable_level": "L5", "fa_amp": 1},
        {"anti_method": "m1"},
        {"anti_method": "m2"},
        {"anti_method": "m4"},
        {"anti_method": "m5"},
        {"anti_method": "m6"},
        {"mm_tensor": True, "dtype": "bfloat16"},
        {"fa_amp": 2, "fa_score": "error"},
        {"disable_last_linear": False},
    ],
    ids=str,
)
def test_a_layer_is_timed_under_all_settings(folder: Path, options: dict[str, Any], numerics: str) -> None:
    found = job(folder, numerics=numerics, **options)
    assert 0 < estimate_seconds(found, plan(found)) < 60
    # Timing leaves nothing behind: the same job can be run.
    assert {tensor.device.type for tensor in found.model.model.parameters()} == {"meta"}
    assert len(list(calibrate(found))) == 3 + (options.get("disable_last_linear") is False)


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("qwen2_moe", {"decoder_sparse_step": 2, "moe_intermediate_size": 24, "num_experts": 4}),
        ("gpt2", {"n_layer": 2, "num_hidden_layers": 2}),
        ("gemma2", {"sliding_window": 8}),
        ("llama", {"tie_word_embeddings": True}),
    ],
)
def test_other_model_types_are_estimated(tmp_path: Path, model_type: str, options: dict[str, Any]) -> None:
    folder = write_config(tmp_path / "model", model_type, patched=False, **options)
    found = job(folder, fa=False)
    assert estimate_seconds(found, plan(found)) > 0


def test_the_largest_layer_is_timed(tmp_path: Path) -> None:
    options = {"decoder_sparse_step": 2, "moe_intermediate_size": 24, "num_experts": 4}
    found = job(write_config(tmp_path / "model", "qwen2_moe", patched=False, **options), fa=False)
    trial, _ = estimate._trial(found)
    assert list(trial.model.layers) == ["model.layers.0", "model.layers.1"]
    assert len(found.model.layers) == 3


def test_large_layers_are_timed_with_short_samples(folder: Path) -> None:
    found = job(folder)
    assert estimate._sample(found).tokens == 51 // 7
    found.model.nbytes = lambda *_: 10**11  # 2.5 x 10^10 parameters, a hundred times what fits a second
    assert estimate._sample(found).tokens == 4


def test_a_layer_is_not_timed_without_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    found = job(folder)
    assert estimate_seconds(found, plan(found)) is None
