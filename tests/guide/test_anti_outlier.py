"""Tests that AntiOutlier smooths models in memory and in folders like the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fa3cli
from fa3cli import AntiOutlier, AntiOutlierConfig, Calibrator, QuantConfig
from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError, UsageError
from tests.guide import differing, export, load, quantized, script_data
from tests.sample_models import random_model, snapshot, token_ids, write_model

NORMS = [
    f"model.layers.{index}.{norm}" for index in range(3) for norm in ("input_layernorm", "post_attention_layernorm")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def process(model: nn.Module | str | Path, **parameters: Any) -> None:
    AntiOutlier(model, calib_data=script_data(), cfg=AntiOutlierConfig(**parameters)).process()


def calibrated(model: nn.Module | str | Path, output: Path, **parameters: Any) -> dict[str, Tensor]:
    return export(Calibrator(model, QuantConfig(**parameters).fa_quant(), script_data()), output)


@pytest.mark.parametrize("method", ["m1", "m2", "m3", "m4", "m5", "m6"])
def test_memory_folder_and_command_give_the_same_export(folder: Path, method: str) -> None:
    expected = quantized(folder, anti_method=method)
    for number, model in enumerate((load(folder), folder)):
        process(model, anti_method=method)
        assert differing(calibrated(model, folder.parent / f"out{number}"), expected) == []


def test_reference_numerics_give_the_export_of_the_command(folder: Path) -> None:
    process(folder, anti_method="m3", numerics="reference")
    found = calibrated(folder, folder.parent / "out", numerics="reference")
    assert differing(found, quantized(folder, anti_method="m3", numerics="reference")) == []


def test_smoothed_norms_are_exported_as_modules(folder: Path) -> None:
    model = load(folder)
    process(model, anti_method="m3")
    found = calibrated(model, folder.parent / "out")
    for norm in NORMS:
        assert torch.equal(found[f"{norm}.module.weight"], model.get_submodule(norm).weight), norm
        assert not found[f"{norm}.module.bias"].any()
    assert fa3cli.verify(folder.parent / "out").ok


def test_without_anti_outlier_norms_are_not_exported_as_modules(folder: Path) -> None:
    assert not [name for name in calibrated(folder, folder.parent / "out") if ".module." in name]


def test_a_model_in_memory_is_smoothed_in_place_and_computes_the_same(folder: Path) -> None:
    model = load(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor(token_ids(9))
    with torch.no_grad():
        logits = model(ids).logits
        process(model, anti_method="m3")
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-3, atol=1e-4)
    changed = differing(before, dict(model.state_dict()))
    assert {f"{norm}.weight" for norm in NORMS} <= set(changed)
    assert not {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} & set(changed)


def test_a_folder_is_not_changed(folder: Path) -> None:
    before = snapshot(folder)
    process(folder, anti_method="m3")
    calibrated(folder, folder.parent / "out")
    assert snapshot(folder) == before


def test_a_smoothed_folder_is_recognised_by_another_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(str(folder), anti_method="m3")
    monkeypatch.chdir(folder.parent)
    found = calibrated(folder.name, folder.parent / "out")
    assert f"{NORMS[0]}.module.weight" in found


def test_smoothing_belongs_to_one_model(folder: Path) -> None:
    smooth, plain = load(folder), load(folder)
    process(smooth, anti_method="m3")
    expected = quantized(folder)
    assert differing(calibrated(plain, folder.parent / "model"), expected) == []
    assert differing(calibrated(folder, folder.parent / "folder"), expected) == []
    assert differing(calibrated(smooth, folder.parent / "smooth"), expected)


def test_calibrating_a_smoothed_model_does_not_change_it(folder: Path) -> None:
    model = load(folder)
    process(model, anti_method="m3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = calibrated(model, folder.parent / "first")
    assert differing(before, dict(model.state_dict())) == []
    assert differing(calibrated(model, folder.parent / "second"), first) == []


def test_a_model_in_memory_is_not_smoothed_twice(folder: Path) -> None:
    model = load(folder)
    process(model, anti_method="m3")
    before = calibrated(model, folder.parent / "before")
    with pytest.raises(ConflictError, match="already"):
        process(model, anti_method="m2")
    assert differing(calibrated(model, folder.parent / "after"), before) == []


def test_method_none_does_nothing(folder: Path) -> None:
    process(folder, anti_method="none")
    process(folder, anti_method="m3")  # no conflict
    assert f"{NORMS[0]}.module.weight" in calibrated(folder, folder.parent / "out")


@pytest.mark.parametrize(
    ("parameters", "error", "problem"),
    [
        ({"anti_method": "m9"}, UnsupportedError, "anti_method=m9"),
        ({"w_bit": 4}, UnsupportedError, "w_bit=4"),
        ({"dev_type": "npu", "dev_id": 0}, UsageError, "the model is on cpu"),
    ],
    ids=str,
)
def test_unsupported_parameters_are_refused(parameters: dict[str, Any], error: type[Exception], problem: str) -> None:
    model = random_model("llama", num_hidden_layers=1)
    with pytest.raises(error, match=problem):
        process(model, **parameters)


@pytest.mark.parametrize(("data", "problem"), [(None, "empty"), ([], "empty"), ([["text"]], r"calib_data\[0\]")])
def test_invalid_calibration_data_is_refused(data: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        AntiOutlier(random_model("llama", num_hidden_layers=1), data, AntiOutlierConfig(anti_method="m3"))


def test_the_model_needs_no_quantizers(tmp_path: Path) -> None:
    model = random_model("llama")
    process(model, anti_method="m3")
    found = export(Calibrator(model, QuantConfig(), script_data()), tmp_path / "out")
    assert f"{NORMS[0]}.module.weight" in found


def test_the_default_method_is_m2(folder: Path) -> None:
    AntiOutlier(folder, script_data()).process()
    found = calibrated(folder, folder.parent / "out")
    assert differing(found, quantized(folder, anti_method="m2")) == []


def test_a_folder_is_always_smoothed_from_its_stored_weights(folder: Path) -> None:
    process(folder, anti_method="m3")
    once = calibrated(folder, folder.parent / "once")
    process(folder, anti_method="m1")
    assert differing(calibrated(folder, folder.parent / "other"), once)
    process(folder, anti_method="m3")
    assert differing(calibrated(folder, folder.parent / "again"), once) == []


def test_a_failure_does_not_change_a_model_in_memory(folder: Path) -> None:
    model = load(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    norm = model.model.layers[2].input_layernorm
    kept = norm.weight.data.clone()
    norm.weight.data[0] = float("nan")
    with pytest.raises(InvalidInputError, match="not finite"):
        process(model, anti_method="m3")
    norm.weight.data.copy_(kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    process(model, anti_method="m3")


def test_a_calibrator_created_before_smoothing_is_refused(folder: Path) -> None:
    model = load(folder)
    calibrator = Calibrator(model, QuantConfig(), script_data())
    process(model, anti_method="m3")
    with pytest.raises(ConflictError, match="smoothed the model since"):
        calibrator.run()


def test_dropout_has_no_effect_on_a_model_in_training_mode(folder: Path) -> None:
    model = load(folder).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    process(model, anti_method="m3")  # refused if the second call of a layer drew other random numbers
    assert all(module.training for module in model.modules())
