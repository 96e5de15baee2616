"""Tests the two halves of quantize: parameters in a folder, and exports for any target from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fa3cli import api
from fa3cli.errors import ConflictError, InvalidInputError, StoppedError, UnsupportedError
from fa3cli.fa_quantizer import quantizer_of
from fa3cli.models.tree_file import read_tree, write_tree
from fa3cli.runs.options import ExportOptions
from fa3cli.runs.result import PARAMETERS_FILE, file_sha256, read_report
from tests.sample_models import edit_config, edit_weights, prepare, snapshot

_RANGE = (torch.zeros(1), torch.ones(1))
ALL = ["modelslim", "mindie", "vllm-ascend", "vllm"]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "anti-outlier": {"anti_method": "m3", "act_method": 3},
    "fallback": {"fa_amp": 1, "disable_level": "L3"},
    "reference": {"numerics": "reference", "disable_level": "L2", "anti_method": "m1"},
    "no-fa": {"fa": False},
    "half": {"dtype": "float16"},
}


def targets_of(options: dict[str, Any]) -> list[str]:
    """The targets that accept these options."""
    return ["modelslim"] if "fa_amp" in options or "numerics" in options else ALL


@pytest.mark.parametrize("name", SETTINGS)
def test_calibrate_and_export_give_the_result_of_quantize(name: str, llama: Path, calib: Path, tmp_path: Path) -> None:
    targets = targets_of(SETTINGS[name])
    # No engine serves float32 for two of the targets.
    options = {"calib": calib, "dtype": "bfloat16" if targets == ALL else "auto"} | SETTINGS[name]
    whole = api.quantize(llama, output=tmp_path / "whole", target=targets, **options)
    kept = api.calibrate(llama, tmp_path / "kept", **options)
    assert kept.layers == whole.layers and kept.bytes_written < 100_000
    halves = api.export(llama, tmp_path / "kept", output=tmp_path / "halves", target=targets)
    assert snapshot(tmp_path / "halves") == snapshot(tmp_path / "whole")
    assert (halves.files, halves.warnings, halves.samples) == (whole.files, whole.warnings, whole.samples)


def test_a_target_gives_the_same_files_alone_or_with_others(llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib, dtype="bfloat16")
    api.export(llama, tmp_path / "kept", output=tmp_path / "all", target=ALL)
    for name in ALL:
        api.export(llama, tmp_path / "kept", output=tmp_path / name, target=[name])
        among, alone = snapshot(tmp_path / "all" / name), snapshot(tmp_path / name)
        for files in (among, alone):
            files["fa3_report.json"] = json.loads(files["fa3_report.json"])["result"]
        assert among == alone


def test_a_stopped_calibration_is_resumed(llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "whole", calib=calib, anti_method="m3")
    job = prepare(llama, output=tmp_path / "kept", calib=calib, anti_method="m3", only_calibrate=True)
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        api.run(job, stop=lambda: next(asked))
    assert not (tmp_path / "kept").exists()
    api.calibrate(llama, tmp_path / "kept", calib=calib, anti_method="m3", resume="required")
    assert snapshot(tmp_path / "kept") == snapshot(tmp_path / "whole")
    assert api.calibrate(llama, tmp_path / "kept", calib=calib, anti_method="m3").already_there


def test_the_same_export_is_not_made_again(llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib)
    options = {"output": tmp_path / "out", "target": ["vllm", "modelslim"]}
    api.export(llama, tmp_path / "kept", **options)
    before = snapshot(tmp_path / "out")
    assert api.export(llama, tmp_path / "kept", **options).already_there
    assert api.quantize(llama, calib=calib, **options).already_there
    (tmp_path / "out" / "vllm" / "config.json").unlink()
    with pytest.raises(ConflictError, match=r"vllm/config\.json is missing"):
        api.export(llama, tmp_path / "kept", **options)
    with pytest.raises(ConflictError, match="other targets"):
        api.export(
            llama,
            tmp_path / "kept",
            **options | {"target": ["modelslim"], "output": tmp_path / "out/modelslim"},
        )
    del before["vllm/config.json"]
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: edit_weights(folder, lambda tensors: tensors["model.norm.weight"].add_(1)),
            "weights",
        ),
        (lambda folder: edit_config(folder, rope_theta=5.0), "config"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "files beside"),
    ],
)
def test_other_weights_than_were_calibrated_are_refused(
    change: Any, words: str, llama: Path, calib: Path, tmp_path: Path
) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib)
    change(llama)
    with pytest.raises(ConflictError, match=f"not the folder that .*kept was calibrated from; different {words}"):
        api.export(llama, tmp_path / "kept", output=tmp_path / "out", trust_remote_code=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("level", "splits"), [("L2", False), ("L8", True)])
def test_calibration_results_decide_whether_a_target_is_refused(
    level: str, splits: bool, llama: Path, calib: Path, tmp_path: Path
) -> None:
    """The reference's disable_level may split a group; this is known only after calibration."""
    options = {"calib": calib, "numerics": "reference", "disable_level": level}
    with pytest.raises(UnsupportedError, match="may split fused ones"):
        prepare(llama, target=["vllm"], **options)
    kept = api.calibrate(llama, tmp_path / "kept", **options)
    reasons = {name: why for layer in kept.layers for name, why in layer.float_linears.items()}
    fallen = [name for name, why in reasons.items() if why == "disable_level"]
    assert len(fallen) == int(level[1:])
    assert splits == any(not name.endswith(("o_proj", "down_proj")) for name in fallen)
    if splits:
        with pytest.raises(UnsupportedError, match="fused with them are not"):
            api.export(llama, tmp_path / "kept", target=["vllm"])
    else:
        assert api.export(llama, tmp_path / "kept", target=["vllm"]).files


def test_warnings_follow_the_calibration_results(llama: Path, calib: Path, tmp_path: Path) -> None:
    options = {"calib": calib, "numerics": "reference", "disable_level": "L2"}
    assert any("may split" in warning for warning in api.plan_warnings(prepare(llama, **options)))
    api.calibrate(llama, tmp_path / "kept", **options)
    job, found = api.prepare_export(ExportOptions(llama, tmp_path / "kept"))
    assert not any("split fused" in warning for warning in api.plan_warnings(job, found.layers))


def rewrite(folder: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the parameters of a calibration, and its report with them."""
    layers = read_tree(folder / PARAMETERS_FILE)
    edit(layers)
    (folder / PARAMETERS_FILE).unlink()
    write_tree(folder / PARAMETERS_FILE, layers)
    edit_report(folder, parameters_sha256=file_sha256(folder / PARAMETERS_FILE))


def edit_report(folder: Path, **changes: Any) -> None:
    report = read_report(folder)
    (folder / "fa3_report.json").write_text(json.dumps(report | changes))


def edit_identity(folder: Path, **changes: Any) -> None:
    edit_report(folder, identity=read_report(folder)["identity"] | changes)


def not_finite(layers: list[dict[str, Any]]) -> None:
    name, (low, _) = next(iter(layers[1]["linears"].items()))
    layers[1]["linears"][name] = (low, torch.tensor([float("nan")]))


def of_another_run(folder: Path) -> None:
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    rewrite(other, not_finite)
    shutil.copyfile(other / PARAMETERS_FILE, folder / PARAMETERS_FILE)


def broken_parameters(folder: Path) -> None:
    file = folder / PARAMETERS_FILE
    file.write_bytes(file.read_bytes()[:-40])


def other_parameters(folder: Path) -> None:
    (folder / PARAMETERS_FILE).unlink()
    write_tree(folder / PARAMETERS_FILE, [{"name": "a", "unknown": torch.ones(1)}])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / PARAMETERS_FILE).unlink(),
        lambda folder: (folder / "fa3_report.json").unlink(),
        lambda folder: (folder / "fa3_report.json").write_text("[1]"),
        lambda folder: (folder / "fa3_report.json").write_text('{"identity": {}}'),
        lambda folder: (folder / "fa3_report.json").write_text("{"),
        lambda folder: shutil.rmtree(folder),
        broken_parameters,
        other_parameters,
        of_another_run,
        lambda folder: rewrite(folder, lambda layers: layers.pop()),
        lambda folder: rewrite(folder, lambda layers: layers[0].update(name="model.layers.9")),
        lambda folder: rewrite(folder, lambda layers: layers[0]["linears"].update(lm_head=_RANGE)),
        lambda folder: rewrite(folder, not_finite),
        lambda folder: edit_identity(folder, settings={}),
        lambda folder: edit_identity(folder, settings={"disable_names": [], "unheard": 1}),
        lambda folder: edit_identity(folder, dtype=None),
        lambda folder: edit_report(folder, result={"samples": "many", "tokens": 1}),
    ],
)
def test_a_broken_calibration_is_bad_input(damage: Any, llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib)
    damage(tmp_path / "kept")
    with pytest.raises(InvalidInputError, match="kept"):
        api.export(llama, tmp_path / "kept", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_says_which_linears_no_sample_reached(llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib)
    name = "model.layers.0.self_attn.o_proj"

    def unreach(layers: list[dict[str, Any]]) -> None:
        del layers[0]["linears"][name]
        layers[0]["unreached"] = (name,)

    rewrite(tmp_path / "kept", unreach)
    result = api.export(llama, tmp_path / "kept", output=tmp_path / "out")
    assert result.layers[0].float_linears[name] == "no calibration sample reached it"


def test_a_calibration_without_a_list_of_unreached_linears_is_read(llama: Path, calib: Path, tmp_path: Path) -> None:
    """Earlier versions did not write this list."""
    api.calibrate(llama, tmp_path / "kept", calib=calib)
    api.export(llama, tmp_path / "kept", output=tmp_path / "new")
    rewrite(tmp_path / "kept", lambda layers: [layer.pop("unreached") for layer in layers])
    api.export(llama, tmp_path / "kept", output=tmp_path / "old")
    weights = "quant_model_weight_w8a8.safetensors"
    assert (tmp_path / "old" / weights).read_bytes() == (tmp_path / "new" / weights).read_bytes()


def test_an_interrupted_export_leaves_nothing(llama: Path, calib: Path, tmp_path: Path) -> None:
    api.calibrate(llama, tmp_path / "kept", calib=calib)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.export(llama, tmp_path / "kept", output=tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == []


def test_the_kv_cache_has_the_scale_of_each_channels_largest_value(llama: Path, calib: Path, tmp_path: Path) -> None:
    """Compared with the states that transformers' own forward gives the quantizer."""
    output = api.quantize(
        llama, tmp_path / "out", calib=calib, target="vllm-ascend", dtype="bfloat16", anti_method="none"
    ).output
    [file] = output.glob("*.safetensors")
    stored, peaks = load_file(file), dict[str, torch.Tensor]()
    model = AutoModelForCausalLM.from_pretrained(llama, trust_remote_code=True, dtype=torch.bfloat16).eval()

    def observe(name: str) -> Callable[[torch.Tensor, str], torch.Tensor]:
        def kept(states: torch.Tensor, role: str) -> torch.Tensor:
            key, peak = f"{name}.{role}", states.abs().amax((0, 2))
            peaks[key] = torch.maximum(peaks[key], peak) if key in peaks else peak
            return states

        return kept

    attentions = {name: module for name, module in model.named_modules() if hasattr(module, "fa_quantizer")}
    for name, module in attentions.items():
        quantizer_of(module).transform = observe(name)
    with torch.no_grad():
        for line in calib.read_text().splitlines():
            model(input_ids=torch.tensor([json.loads(line)["input_ids"]]))
    assert len(peaks) == 3 * len(attentions) == 9
    for name in attentions:
        for role in "kv":
            scale = stored[f"{name}.{role}_proj.kv_cache_scale"].float()
            expected = peaks[f"{name}.{role}"].float().flatten() / 127
            torch.testing.assert_close(scale, expected, rtol=2**-6, atol=0)
            assert len(scale.unique()) > len(peaks[f"{name}.{role}"])  # not one value per head


@pytest.mark.parametrize("scheme", ["none", "tensor"])
def test_each_report_says_what_its_own_export_holds(scheme: str, llama: Path, calib: Path, tmp_path: Path) -> None:
    options = {"target": ["vllm", "modelslim"], "kv_cache_scheme": scheme, "calib": calib}
    made = api.quantize(llama, tmp_path / "out", **options)
    layers = {name: read_report(tmp_path / "out" / name)["result"]["layers"] for name in ("modelslim", "vllm")}
    assert all(layer["fa"] for layer in layers["modelslim"])
    assert {(layer["fa"], layer["fa_reason"]) for layer in layers["vllm"]} == {
        (False, "kv_cache_scheme is none") if scheme == "none" else (True, None)
    }
    again = api.quantize(llama, tmp_path / "out", **options)
    assert again.already_there and again.layers == made.layers and again.serve == made.serve
