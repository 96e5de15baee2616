"""Tests whole runs on tiny pipelines: what they export, and that an interruption does not change the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa3cli import api
from fa3cli.errors import (
    ConflictError,
    InvalidInputError,
    MissingCapabilityError,
    StoppedError,
    UnsupportedError,
    UsageError,
)
from fa3cli.exports.folder import RunFolder
from fa3cli.pipelines import disk_room, recording
from fa3cli.pipelines.jobs import jobs_of
from fa3cli.pipelines.opening import open_pipeline
from fa3cli.pipelines.sampling import Sampling
from fa3cli.runs.identity import differing, identity
from fa3cli.runs.options import RunOptions
from tests.sample_models import snapshot

WEIGHTS, DESCRIPTION = (
    "quant_model_weight_w8a8_dynamic.safetensors",
    "quant_model_description_w8a8_dynamic.json",
)
SMALL = {"steps": 4, "height": 8, "width": 8, "guidance": 3.5}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog in the rain\n")
    return file


@pytest.fixture
def quantize(patched_flux: Path, prompts: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        given = {"prompts": prompts, "output": tmp_path / "out", **SMALL, **options}
        return api.quantize(patched_flux, **given)

    return run


def test_a_flux_export_has_int8_linears_and_scales_per_head(quantize: Callable[..., Any], patched_flux: Path) -> None:
    result = quantize()
    tensors = load_file(result.output / WEIGHTS)
    source = load_file(patched_flux / "transformer" / "diffusion_pytorch_model.safetensors")
    description = json.loads((result.output / DESCRIPTION).read_text())
    assert (result.samples, len(result.layers)) == (8, 4)
    attentions = {name.removesuffix(".fa_q.scale") for name in tensors if name.endswith(".fa_q.scale")}
    assert attentions == {
        f"{stack}.{index}.attn" for stack in ("transformer_blocks", "single_transformer_blocks") for index in range(2)
    }
    assert sum(".fa_" in name for name in tensors) == 6 * len(attentions)
    heads = json.loads((result.output / "config.json").read_text())["num_attention_heads"]
    for name in (key for key in tensors if ".fa_" in key):
        assert tensors[name].shape == (heads, 1)
        assert description[name] == "FAQuant"
    # Every float tensor has its name in the export: unchanged, or int8 with one scale per row.
    for name, values in source.items():
        if tensors[name].dtype != torch.int8:
            assert torch.equal(tensors[name], values) and description[name] == "FLOAT"
            continue
        scale = tensors[f"{name.removesuffix('weight')}weight_scale"]
        assert name.startswith(("transformer_blocks.", "single_transformer_blocks."))
        assert ".norm" not in name and scale.shape == (len(values), 1)
        assert description[name] == "W8A8_DYNAMIC"
        assert ((tensors[name] * scale - values).abs() <= scale * 0.501).all()
    assert description["model_quant_type"] == "W8A8_DYNAMIC"
    assert api.verify(result.output).ok
    assert repr(str(result.output / DESCRIPTION)) in result.serve["mindie-sd"]


def test_the_report_has_peaks_per_block_and_timestep(quantize: Callable[..., Any]) -> None:
    result = quantize()
    for layer in result.layers:
        assert [peaks["timestep"] for peaks in layer.timesteps] == [1.0, 0.75, 0.5, 0.25]
        assert all(peaks[role] > 0 for peaks in layer.timesteps for role in "qkv")
        assert 0 < layer.error < 0.1
    scales = load_file(result.output / WEIGHTS)
    for layer in result.layers:
        for role in "qkv":
            largest = max(peaks[role] for peaks in layer.timesteps)
            scale = scales[f"{layer.name}.attn.fa_{role}.scale"].max().item()
            assert largest / 127 == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_max_records_limits_the_samples(quantize: Callable[..., Any], count: int) -> None:
    assert quantize(max_records=count).samples == min(count, 8)


def test_an_existing_export_is_not_made_again(quantize: Callable[..., Any]) -> None:
    first = quantize()
    before = snapshot(first.output)
    again = quantize()
    assert again.already_there and snapshot(first.output) == before
    with pytest.raises(ConflictError, match=r"sampling\.seed \(0, now 1\)"):
        quantize(seed=1)


def test_a_run_stopped_during_sampling_is_resumed(
    quantize: Callable[..., Any], patched_flux: Path, prompts: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    whole = snapshot(quantize(output=tmp_path / "whole").output)
    [job] = jobs_of(RunOptions(patched_flux, prompts=prompts, output=tmp_path / "out", **SMALL))
    asked = iter([False] * 6 + [True] * 100)
    with pytest.raises(StoppedError, match="sampled") as stopped:
        api.run(job, stop=lambda: next(asked))
    assert stopped.value.exit_code == 75
    assert api.left_by(job) is not None and not (tmp_path / "out").exists()
    sampled = []
    sample = recording.sample
    monkeypatch.setattr(recording, "sample", lambda *a, **k: sampled.append(a[2]) or sample(*a, **k))
    result = api.run(job, resume="required")
    assert sampled == [1]  # the first prompt was recorded before
    assert snapshot(result.output) == whole and not list(tmp_path.glob("*.journal"))


def test_a_run_stopped_after_a_block_resumes_without_sampling(
    quantize: Callable[..., Any], patched_flux: Path, prompts: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    whole = snapshot(quantize(output=tmp_path / "whole").output)
    [job] = jobs_of(RunOptions(patched_flux, prompts=prompts, output=tmp_path / "out", **SMALL))
    visits = (tmp_path / "out.journal" / "visits").glob
    with pytest.raises(StoppedError, match=r"transformer_blocks\.1"):
        api.run(job, stop=lambda: len(list(visits("visit-*"))) == 2)
    monkeypatch.setattr(recording, "sample", None)
    assert snapshot(api.run(job).output) == whole


def test_missing_states_of_an_earlier_run_are_a_conflict(patched_flux: Path, prompts: Path, tmp_path: Path) -> None:
    [job] = jobs_of(RunOptions(patched_flux, prompts=prompts, output=tmp_path / "out", **SMALL))
    states = tmp_path / "out.journal" / "visits"
    with pytest.raises(StoppedError):
        api.run(job, stop=lambda: len(list(states.glob("visit-*"))) == 2)
    shutil.rmtree(states / "states")
    with pytest.raises(ConflictError, match="missing") as raised:
        api.run(job)
    assert "--resume never" in raised.value.hint
    assert api.run(job, resume="never").samples == 8


def test_each_transformer_of_a_pipeline_is_exported(made: Callable[..., Path], prompts: Path, tmp_path: Path) -> None:
    results = api.quantize_all(
        made("wan", True),
        prompts=prompts, output=tmp_path / "out", steps=4, height=16, width=16, frames=5,
    )  # fmt: skip
    assert [result.output.name for result in results] == ["transformer", "transformer_2"]
    for result in results:
        assert api.verify(result.output).ok
        assert all(
            {"blocks.0.ffn.net.2": "disable_names"}.items() <= layer.float_linears.items()
            for layer in result.layers[:1]
        )
    timesteps = [{peaks["timestep"] for peaks in result.layers[0].timesteps} for result in results]
    assert min(timesteps[0]) > max(timesteps[1])  # the steps are divided between both


def test_the_refiner_of_hunyuan_video_stays_float(made: Callable[..., Path], prompts: Path, tmp_path: Path) -> None:
    result = api.quantize(
        made("hunyuan", True),
        prompts=prompts, output=tmp_path / "out", steps=2, height=16, width=16, frames=5,
    )  # fmt: skip
    description = json.loads((result.output / DESCRIPTION).read_text())
    quantized = {name for name, value in description.items() if value in ("W8A8_DYNAMIC", "FAQuant")}
    quantized -= {"model_quant_type", "fa_quant_type"}
    assert quantized and all(
        name.startswith(("transformer_blocks.", "single_transformer_blocks.")) and "norm" not in name
        for name in quantized
    )
    assert any("token_refiner" in name for name in description)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"prompts": None}, UsageError, "--prompts"),
        ({"calib": "lines.jsonl"}, UsageError, "--calib"),
        ({"max_length": 8}, UsageError, "--max-length"),
        ({"target": ["modelslim"]}, UnsupportedError, "modelslim"),
        ({"save_types": ["numpy"]}, UnsupportedError, "numpy"),
        ({"part_file_size": 1.0}, UnsupportedError, "part_file_size"),
        ({"frames": 5}, UnsupportedError, "num_frames"),
        ({"act_method": 2}, UnsupportedError, "act_method=2 is not supported for pipelines"),
        ({"anti_method": "m3"}, UnsupportedError, "anti_method=m3"),
        ({"numerics": "reference"}, UnsupportedError, "numerics=reference"),
        ({"disable_level": "L1"}, UnsupportedError, "disable_level=L1"),
        ({"include_names": ("*.down_proj",)}, InvalidInputError, "include_names: '\\*.down_proj'"),
        ({"disable_names": ("*.down_proj",)}, InvalidInputError, "disable_names: '\\*.down_proj'"),
        ({"attn_implementation": "eager"}, UsageError, "--attn-implementation"),
    ],
)
def test_options_unsupported_for_pipelines_are_refused(
    quantize: Callable[..., Any], tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        quantize(**options)
    assert not list(tmp_path.glob("out*"))


def test_modules_are_chosen_by_name(quantize: Callable[..., Any]) -> None:
    result = quantize(
        recipe="none",
        include_names=("transformer_blocks.*.attn.*",),
        disable_names=("*.to_out.0", "single_transformer_blocks.1.attn"),
        max_records=1,
    )
    quantized = {
        name.removesuffix(".weight_scale")
        for name in load_file(result.output / WEIGHTS)
        if name.endswith(".weight_scale")
    }
    assert quantized and all(
        name.startswith("transformer_blocks.") and ".attn." in name and not name.endswith("to_out.0")
        for name in quantized
    )
    assert [layer.fa_reason for layer in result.layers] == [None, None, None, "disable_names"]
    single = result.layers[2]
    assert set(single.float_linears.values()) == {"include_names"}


def test_pipeline_options_are_refused_for_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for options in ({"prompts": "p.txt"}, {"steps": 4}, {"max_records": 3}, {"seed": 0}):
        with pytest.raises(UsageError, match="pipelines of diffusers"):
            api.quantize(tmp_path, **options)


def test_calibrate_refuses_a_pipeline(patched_flux: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="in one run"):
        api.calibrate(patched_flux, tmp_path / "out", prompts=prompts)


def test_a_pipeline_can_be_planned(patched_flux: Path, prompts: Path, tmp_path: Path) -> None:
    [job] = jobs_of(RunOptions(patched_flux, prompts=prompts, output=tmp_path / "out", max_records=5, **SMALL))
    planned = api.full_plan(job)
    assert (planned.layers, planned.samples, planned.attentions) == (4, 5, 4)
    assert (planned.peak_memory, planned.seconds) == (None, None)
    made = api.run(job)
    assert planned.bytes_written >= made.bytes_written
    assert planned.quantized_linears == sum(layer.quantized for layer in made.layers)


@pytest.fixture
def own_flux(patched_flux: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may change; one component is a link to another folder."""
    folder = tmp_path / "flux"
    shutil.copytree(patched_flux, folder)
    (folder / "text_encoder_2").rename(tmp_path / "t5")
    (folder / "text_encoder_2").symlink_to(tmp_path / "t5")
    return folder


def double(file: Path) -> None:
    tensors = load_file(file)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def edit_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer_2" / "tokenizer.json"
    file.write_text(file.read_text().replace('"unk_id": 2', '"unk_id": 0'))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: double(folder / "text_encoder_2" / "model.safetensors"),
        lambda folder: double(folder / "vae" / "diffusion_pytorch_model.safetensors"),
        edit_tokenizer,
        lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text('{"shift": 3.0}'),
    ],
)
def test_the_identity_includes_every_file_that_records_depend_on(
    own_flux: Path, prompts: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    def made_of() -> dict[str, Any]:
        [job] = jobs_of(RunOptions(own_flux, prompts=prompts, output=tmp_path / "out", **SMALL))
        return identity(job)

    before = made_of()
    (own_flux / "a-note.txt").write_text("not read by anything")
    (own_flux / "quantized").mkdir()
    (own_flux / "quantized" / "config.json").write_text("{}")
    assert made_of() == before
    change(own_flux)
    assert differing(before, made_of()) == ["pipeline"]


def test_a_run_stops_early_without_disk_space_for_all_records(
    quantize: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = shutil.disk_usage(tmp_path)._replace(free=600_000)  # for the export, and a record or two
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(RunFolder, "require_place", lambda _: None)
    sampled = []
    sample = recording.sample
    monkeypatch.setattr(recording, "sample", lambda *a, **k: sampled.append(a[2]) or sample(*a, **k))
    with pytest.raises(MissingCapabilityError, match="8 records and their states need about") as raised:
        quantize()
    assert "--max-records" in raised.value.hint and sampled == [0]


def test_all_outputs_of_a_pipeline_are_checked_before_sampling(
    made: Callable[..., Path], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "transformer_2").mkdir(parents=True)
    (tmp_path / "out" / "transformer_2" / "mine.txt").write_text("")
    monkeypatch.setattr(recording, "sample", None)
    with pytest.raises(ConflictError, match="transformer_2"):
        api.quantize_all(made("wan", True), prompts=prompts, output=tmp_path / "out", steps=4)


def test_resume_works_if_only_one_of_several_runs_was_stopped(
    made: Callable[..., Path], prompts: Path, tmp_path: Path
) -> None:
    given = {
        "prompts": prompts,
        "output": tmp_path / "out",
        "steps": 4,
        "height": 16,
        "width": 16,
        "frames": 5,
    }
    jobs = jobs_of(RunOptions(made("wan", True), **given))
    with pytest.raises(ConflictError, match="nothing there to resume"):
        api.quantize_all(made("wan", True), resume="required", **given)
    asked = iter([False] * 6 + [True] * 100)
    with pytest.raises(StoppedError):
        api.run(jobs[0], stop=lambda: next(asked))
    assert api.ways_to_resume(jobs, "required") == ["required", "auto"]
    results = api.quantize_all(made("wan", True), resume="required", **given)
    assert [result.samples for result in results] == [8, 8]


def test_only_records_of_the_requested_transformer_are_read(
    made: Callable[..., Path], prompts: Path, tmp_path: Path
) -> None:
    opened = open_pipeline(made("wan", True), fa=True)
    sampling = Sampling(("a cat",), 4, 16, 16, 5)
    recording.record(opened, sampling, tmp_path / "records", component="transformer_2")
    assert len(list((tmp_path / "records").iterdir())) == 4
    assert list(recording.read_records(tmp_path / "records")) == ["transformer_2"]
