"""Tests the Python functions from a patch to a verified export."""

from __future__ import annotations

from pathlib import Path

import pytest

import fa3cli
from fa3cli import api
from fa3cli.errors import Fa3Error, InvalidInputError
from fa3cli.runs.progress import Progress
from tests import sample_models
from tests.sample_models import token_ids, write_lines, write_model


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "calib.jsonl", token_ids(9, 5))


def test_patch_quantize_and_verify_from_python(tmp_path: Path, calib: Path) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", patched=False)
    fa3cli.patch(folder)
    seen: list[Progress] = []
    result = fa3cli.quantize(str(folder), calib=calib, recipe="default", progress=seen.append)
    assert result.output == Path(f"{folder}-w8a8-fa3")
    assert len(seen) == 3 * (2 + 1)
    assert fa3cli.verify(str(result.output)).ok
    assert fa3cli.quantize(folder, calib=calib, recipe="default").already_there


def test_plan_and_run_of_one_job_agree(tmp_path: Path, calib: Path) -> None:
    job = sample_models.prepare(write_model(tmp_path / f"llama-{tmp_path.name}"), calib=calib, recipe="default")
    planned = api.plan(job)
    assert not job.output.exists()
    result = api.run(job)
    assert sum(layer.quantized for layer in result.layers) == planned.quantized_linears == 18
    assert sum(bool(layer.fa) for layer in result.layers) == planned.attentions == 3
    assert (planned.samples, planned.tokens) == (result.samples, result.tokens) == (2, 14)


def test_errors_have_one_base_class(tmp_path: Path) -> None:
    for call in (fa3cli.quantize, fa3cli.verify, fa3cli.patch):
        with pytest.raises(Fa3Error) as raised:
            call(tmp_path / "nowhere")
        assert isinstance(raised.value, InvalidInputError)
