"""Tests in which dtype a float32 model runs, by target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fa3cli import api
from fa3cli.errors import Fa3Error, UnsupportedError
from fa3cli.runs.options import RunOptions
from tests.sample_models import token_ids, write_lines, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model") / "llama", "llama")
    write_lines(folder.parent / "calib.jsonl", token_ids(8))
    return folder


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [
        (["modelslim"], "float32"),
        (["vllm"], "float32"),
        (["mindie"], "bfloat16"),
        (["modelslim", "vllm-ascend"], "bfloat16"),
    ],
)
def test_a_float32_model_runs_in_bfloat16_if_an_engine_needs_it(targets: list[str], dtype: str, folder: Path) -> None:
    [job] = api.jobs_of(RunOptions(folder, calib=folder.parent / "calib.jsonl", target=targets))
    planned = api.plan(job)
    lines = [line for line in planned.warnings if "no engine serves float32" in line]
    assert planned.dtype == dtype and len(lines) == (dtype == "bfloat16")


def test_target_vllm_needs_no_patch_and_no_range_of_q_k_v(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "plain", "llama", patched=False)
    write_lines(tmp_path / "calib.jsonl", token_ids(9))
    [job] = api.jobs_of(RunOptions(folder, calib=tmp_path / "calib.jsonl", target=["vllm"]))
    assert not job.settings.fa and not job.attentions and api.plan(job).origins["fa"] == "target"
    with pytest.raises(Fa3Error, match="patch"):
        api.jobs_of(RunOptions(folder, calib=tmp_path / "calib.jsonl", target=["vllm"], kv_cache_scheme="tensor"))


def test_an_export_has_the_dtype_that_was_run(folder: Path, tmp_path: Path) -> None:
    output = api.quantize(folder, tmp_path / "out", calib=folder.parent / "calib.jsonl", target="mindie").output
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert api.verify(output).ok


def test_float32_is_refused_where_no_engine_serves_it(folder: Path) -> None:
    options = RunOptions(folder, calib=folder.parent / "calib.jsonl", target=["vllm-ascend"], dtype="float32")
    with pytest.raises(UnsupportedError, match="float32") as raised:
        api.jobs_of(options)
    assert "--dtype bfloat16" in str(raised.value.hint)
