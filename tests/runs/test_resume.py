"""Tests that a stopped and resumed run makes the same bytes as an uninterrupted run."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa3cli import api
from fa3cli.errors import ConflictError, MissingCapabilityError, StoppedError
from fa3cli.exports import safetensors_writer
from fa3cli.runs.exporting import export_layers
from fa3cli.runs.job import Job
from fa3cli.runs.journal import NotResumableError
from fa3cli.runs.result import Result
from tests import sample_models
from tests.conftest import ROOT
from tests.sample_models import snapshot, token_ids, write_lines, write_model

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "parts": ("qwen2", {"part_file_size": 30_000 / 1e9}),
    "numpy": ("llama", {"save_types": ["numpy"], "part_file_size": 30_000 / 1e9}),
    "reference": (
        "qwen2",
        {"numerics": "reference", "anti_method": "m3", "act_method": 3, "disable_level": "L3"},
    ),
    "two-passes": ("llama", {"anti_method": "m4", "disable_level": "L3", "mm_tensor": True}),
    "head": ("llama", {"disable_last_linear": False, "act_method": 2}),
    "head-two-passes": ("qwen2", {"disable_last_linear": False, "disable_level": "L2", "anti_method": "m2"}),
    "scores": ("llama", {"fa_amp": 1, "fa_score": "error"}),
    "targets": ("qwen2", {"target": ["modelslim", "vllm-ascend", "vllm"], "part_file_size": 30_000 / 1e9}),
    "windows": ("mistral", {"act_method": 3}),
    "no-norm-before": ("opt", {"recipe": "none"}),
    "experts": ("mixtral", {"recipe": "none", "anti_method": "m2"}),
}
# Special features of a type: states that are passed to a linear directly, attention over few tokens.
TYPES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48, "do_layer_norm_before": False},
}


def prepare(model: Path, output: Path, **options: Any) -> Job:
    return sample_models.prepare(model, output=output, **{"recipe": "default"} | options)


def quantize(model: Path, output: Path, *, resume: str = "auto", **options: Any) -> Result:
    return api.run(prepare(model, output, **options), resume=resume)


def stop_after(layers: int) -> Callable[[], bool]:
    """Request a stop after this many layers."""
    count = iter(range(layers - 1))
    return lambda: next(count, None) is None


def stopped(output: Path, layers: int, model: Path, **options: Any) -> list[str]:
    """Run until that many more layers are done; return the visits in the journal."""
    with pytest.raises(StoppedError) as raised:
        api.run(prepare(model, output, **options), stop=stop_after(layers))
    assert raised.value.exit_code == 75 and not output.exists()
    return sorted(file.name for file in output.with_name(f"{output.name}.journal").glob("visits/visit-*"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and calibration lines, one of them padded."""
    place = tmp_path_factory.mktemp("resume")
    for model_type in ("llama", "qwen2", "mistral", "opt", "mixtral"):
        dtype = torch.float16 if model_type == "qwen2" else torch.float32
        patched = model_type != "opt"
        options = TYPES.get(model_type, {})
        write_model(place / f"resumed-{model_type}", model_type, dtype=dtype, patched=patched, **options)
    padded = {"input_ids": token_ids(6, 6), "attention_mask": [[1] * 6, [0] * 2 + [1] * 4]}
    write_lines(place / "calib.jsonl", [*token_ids(9, 17), padded])
    return place


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_after_every_layer_gives_the_same_bytes(place: Path, tmp_path: Path, name: str) -> None:
    model_type, options = RUNS[name]
    model = place / f"resumed-{model_type}"
    options = {"calib": place / "calib.jsonl", "fa": model_type != "opt"} | options
    job = prepare(model, output=tmp_path / "whole", **options)
    api.run(job)
    whole, visits = snapshot(tmp_path / "whole"), 0
    todo = 3 + len(job.quantized_head)
    todo *= 2 if job.settings.level else 1
    for done in range(1, todo):
        assert len(stopped(tmp_path / "out", 1, model, **options)) == done
        visits += 1
    result = quantize(model, output=tmp_path / "out", resume="required", **options)
    assert snapshot(tmp_path / "out") == whole and visits == todo - 1 > 1
    assert set(result.files) <= whole.keys() and not result.already_there
    assert not (tmp_path / "out.journal").exists()


def test_a_resumed_result_equals_that_of_an_uninterrupted_run(llama: Path, calib: Path, tmp_path: Path) -> None:
    """Also warnings and scores of layers of the earlier run."""
    options = {"calib": calib, "fa_amp": 1, "numerics": "reference", "dtype": "float16"}
    whole = quantize(llama, output=tmp_path / "whole", **options)
    stopped(tmp_path / "out", 2, llama, **options)
    found = quantize(llama, output=tmp_path / "out", **options)
    assert (found.layers, found.warnings, found.files) == (whole.layers, whole.warnings, whole.files)


def test_a_stop_after_the_last_layer_is_ignored(llama: Path, calib: Path, tmp_path: Path) -> None:
    job = prepare(llama, calib=calib, output=tmp_path / "out")
    api.run(job, stop=stop_after(3))
    assert (tmp_path / "out").is_dir() and not (tmp_path / "out.journal").exists()


def test_progress_continues_from_the_stopped_layer(llama: Path, calib: Path, tmp_path: Path) -> None:
    stopped(tmp_path / "out", 2, llama, calib=calib)
    seen = []
    api.run(prepare(llama, calib=calib, output=tmp_path / "out"), seen.append)
    assert [(at.layer, at.sample) for at in seen] == [(2, 6), (2, 7), (2, 8), (3, 9)]
    assert all((at.layers, at.samples) == (3, 9) for at in seen)
    assert seen[0].seconds_left is None


# ---- which run is resumed


def test_resume_required_without_a_journal_is_a_conflict(llama: Path, calib: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(ConflictError, match="nothing there to resume"):
        quantize(llama, calib=calib, output=tmp_path / "out", resume="required")
    assert snapshot(tmp_path) == before and not (tmp_path / "out.journal").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"act_method": 2}, r"settings\.act_method \(1, now 2\)$"), ({"samples": 2}, "calibration$")],
)
def test_another_run_is_a_conflict_and_the_journal_is_kept(
    llama: Path, calib: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    stopped(tmp_path / "out", 1, llama, calib=calib)
    before = snapshot(tmp_path)
    with pytest.raises(ConflictError, match=words) as raised:
        quantize(llama, calib=calib, output=tmp_path / "out", **options)
    assert snapshot(tmp_path) == before and "--resume never" in raised.value.hint
    quantize(llama, calib=calib, output=tmp_path / "out", resume="required")


def test_resume_never_starts_over(llama: Path, calib: Path, tmp_path: Path) -> None:
    stopped(tmp_path / "out", 2, llama, calib=calib)
    seen = []
    options = {"calib": calib, "act_method": 2}
    api.run(prepare(llama, output=tmp_path / "out", **options), seen.append, resume="never")
    quantize(llama, output=tmp_path / "whole", **options)
    assert seen[0].layer == 0 and not (tmp_path / "out.journal").exists()
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("broken", ["identity.json", "visit-00001.safetensors", "states-00001.0.safetensors"])
def test_a_broken_file_is_a_conflict(llama: Path, calib: Path, tmp_path: Path, broken: str) -> None:
    stopped(tmp_path / "out", 2, llama, calib=calib)
    file = tmp_path / "out.journal" / "visits" / broken
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ConflictError, match=f"{broken}: not as fa3 wrote it") as raised:
        quantize(llama, calib=calib, output=tmp_path / "out")
    assert raised.value.exit_code == 4 and raised.value.hint and file.exists()
    quantize(llama, calib=calib, output=tmp_path / "out", resume="never")


def test_missing_states_are_a_conflict(llama: Path, calib: Path, tmp_path: Path) -> None:
    stopped(tmp_path / "out", 2, llama, calib=calib)
    (tmp_path / "out.journal" / "visits" / "states-00001.0.safetensors").unlink()
    with pytest.raises(ConflictError, match="some files states-00001"):
        quantize(llama, calib=calib, output=tmp_path / "out")


def test_a_journal_beside_its_finished_export_is_removed(llama: Path, calib: Path, tmp_path: Path) -> None:
    """As left by a run that was killed at its last step."""
    options = {"calib": calib, "output": tmp_path / "out"}
    stopped(tmp_path / "out", 1, llama, calib=calib)
    (tmp_path / "out.journal").rename(tmp_path / "kept")
    quantize(llama, **options)
    before = snapshot(tmp_path / "out")
    (tmp_path / "kept").rename(tmp_path / "out.journal")
    assert quantize(llama, **options).already_there
    assert snapshot(tmp_path / "out") == before and not (tmp_path / "out.journal").exists()


def test_a_second_run_is_refused_while_the_first_is_running(llama: Path, calib: Path, tmp_path: Path) -> None:
    job = prepare(llama, calib=calib, output=tmp_path / "out")
    refused: list[int] = []

    def second(_: object) -> None:
        with pytest.raises(ConflictError, match="another run is writing it") as raised:
            quantize(llama, calib=calib, output=tmp_path / "out")
        refused.append(raised.value.exit_code)

    api.run(job, second)
    assert set(refused) == {4} and (tmp_path / "out").is_dir()


# ---- a full disk


@pytest.mark.parametrize("place", [0, 2, 9, 10, 14, -3, -2, -1])
def test_a_full_disk_is_reported_and_the_run_can_be_resumed(
    llama: Path, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """At any write to the disk."""
    options = {"calib": calib, "output": tmp_path / "out"}
    to_disk, calls, full = safetensors_writer._to_disk, 0, -1

    def counted(file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        to_disk(file)

    monkeypatch.setattr(safetensors_writer, "_to_disk", counted)
    quantize(llama, calib=calib, output=tmp_path / "whole")
    calls, full = 0, range(1, calls + 1)[place]
    with pytest.raises(MissingCapabilityError, match="No space left on device") as raised:
        quantize(llama, **options)
    assert raised.value.exit_code == 6
    kept = (tmp_path / "out.journal").exists()
    assert ("resumes" in raised.value.hint) == kept
    assert kept if place < 0 or place >= 14 else not kept or place == 10
    quantize(llama, resume="required" if kept else "auto", **options)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_file_size_limit_ends_a_run_without_a_traceback(llama: Path, calib: Path, tmp_path: Path) -> None:
    """The system refuses a buffered write."""
    output = tmp_path / "out"
    quantize(llama, calib=calib, output=tmp_path / "whole")
    most = max(len(data) for data in snapshot(tmp_path / "whole").values()) * 3 // 4
    options = ["--calib", calib, "--output", output, "--recipe", "default"]
    run = subprocess.run(
        [sys.executable, "-m", "fa3cli", "quantize", llama, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many threads as here
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert run.returncode == 6, run.stderr
    assert "File too large" in run.stderr and "resumes from here" in run.stderr
    assert "Traceback" not in run.stderr and "ignored" not in run.stderr
    quantize(llama, calib=calib, output=output, resume="required")
    assert snapshot(output) == snapshot(tmp_path / "whole")


# ---- a model that can't be resumed


def test_a_run_of_a_model_that_reuses_earlier_states_starts_over(
    llama: Path, calib: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its arguments would be NaN instead of the output of the first layer."""

    def sharing(*arguments: Any, **options: Any) -> Any:
        job = prepare(*arguments, **options)
        shared: dict[str, Tensor] = {}
        layers = list(job.model.layers.values())

        def remember(_: nn.Module, __: Any, output: Any) -> None:
            shared["first"] = output[0] if isinstance(output, tuple) else output

        def hand_on(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return positional, named | {"of_the_first": shared["first"].clone()}

        layers[0].register_forward_hook(remember)
        layers[2].register_forward_pre_hook(hand_on, with_kwargs=True)
        return job

    job = sharing(llama, calib=calib, output=tmp_path / "whole")
    api.run(job)
    with pytest.raises(StoppedError):
        api.run(sharing(llama, calib=calib, output=tmp_path / "out"), stop=stop_after(2))
    with pytest.raises(NotResumableError, match=r"after model\.layers\.1 needs more than"):
        api.run(sharing(llama, calib=calib, output=tmp_path / "out"), resume="required")
    assert (tmp_path / "out.journal" / "visits" / "visit-00001.safetensors").exists()
    api.run(sharing(llama, calib=calib, output=tmp_path / "out"))
    assert "starting over" in caplog.text
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("gone", ["export/*.part0", "scratch/*.ragged"])
def test_missing_written_data_is_a_conflict(llama: Path, calib: Path, tmp_path: Path, gone: str) -> None:
    """Otherwise a gap in the export would contain zeros."""
    options = {"calib": calib, "output": tmp_path / "out"}
    with pytest.raises(StoppedError):
        api.run(prepare(llama, **options, dtype="float16"), stop=stop_after(1))
    (file,) = (tmp_path / "out.journal").glob(gone)
    assert file.stat().st_size
    file.unlink()
    with pytest.raises(ConflictError, match="shorter than the tensors written to it"):
        api.run(prepare(llama, **options, dtype="float16"))
    assert not (tmp_path / "out").exists()
    api.run(prepare(llama, **options, dtype="float16"), resume="never")


def test_a_script_does_not_overwrite_a_stopped_run(llama: Path, calib: Path, tmp_path: Path) -> None:
    job = prepare(llama, calib=calib, output=tmp_path / "out")
    with pytest.raises(StoppedError):
        api.run(job, stop=stop_after(1))
    before = snapshot(tmp_path / "out.journal")
    with pytest.raises(ConflictError, match="left by a stopped run of fa3 quantize"):
        export_layers(job, [])
    assert snapshot(tmp_path / "out.journal") == before
