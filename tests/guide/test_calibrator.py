"""Tests that Calibrator exports what the command exports, and what run and save accept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fa3cli
from fa3cli import Calibrator, FAQuantizer, QuantConfig
from fa3cli.errors import ConflictError, InvalidInputError, UnsupportedError, UsageError
from fa3cli.exports.layout import FA_TENSORS, REPORT_FILE
from tests.guide import LENGTHS, differing, export, load, quantized, script_data, tensors
from tests.sample_models import random_model, token_ids, write_model

DOWN = tuple(f"model.layers.{index}.mlp.down_proj" for index in range(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def is_fa(name: str) -> bool:
    return name.rpartition("self_attn.")[2] in FA_TENSORS


# ---- the results


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"dtype": torch.bfloat16}], ids=str)
def test_memory_folder_and_command_give_the_same_export(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", **options)
    expected = quantized(folder, disable_names=DOWN)
    assert sum(map(is_fa, expected)) == 3 * 6
    for number, model in enumerate((load(folder), folder, str(folder))):
        config = QuantConfig(disable_names=list(DOWN)).fa_quant(fa_amp=0)
        found = export(Calibrator(model, config, calib_data=script_data()), tmp_path / f"out{number}")
        assert differing(found, expected) == []


@pytest.mark.parametrize(
    ("parameters", "fa_amp", "level", "options"),
    [
        ({"act_method": 3}, 0, "L5", {"act_method": 3, "disable_level": "L5"}),
        ({"act_method": 2, "mm_tensor": True}, 1, "L0", {"act_method": 2, "mm_tensor": True, "fa_amp": 1}),
        (
            {"disable_last_linear": False, "fa_score": "error"},
            2,
            "L0",
            {"disable_last_linear": False, "fa_score": "error", "fa_amp": 2},
        ),
    ],
    ids=["act_method, disable_level", "mm_tensor, fa_amp", "last linear, fa_score"],
)
def test_parameters_have_the_meaning_of_the_command_options(
    folder: Path, parameters: dict[str, Any], fa_amp: int, level: str, options: dict[str, Any]
) -> None:
    config = QuantConfig(**parameters).fa_quant(fa_amp=fa_amp)
    calibrator = Calibrator(load(folder), config, calib_data=script_data(), disable_level=level)
    found = export(calibrator, folder.parent / "out")
    assert differing(found, quantized(folder, **options)) == []
    assert differing(found, export(Calibrator(folder, QuantConfig(), script_data()), folder.parent / "other"))


@pytest.mark.parametrize("in_memory", [False, True])
def test_reference_numerics_give_the_export_of_the_command(folder: Path, in_memory: bool) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = folder
    if in_memory:
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, torch_dtype="auto", attn_implementation="eager"
        )
    config = QuantConfig(numerics="reference").fa_quant()
    found = export(Calibrator(model, config, calib_data=script_data()), folder.parent / "out")
    assert differing(found, quantized(folder, numerics="reference")) == []


def test_all_forms_of_calib_data_give_the_same(folder: Path) -> None:
    from transformers import BatchEncoding

    lists = script_data()
    named = [dict(zip(("input_ids", "attention_mask"), item)) for item in lists]
    forms = {
        "lists": lists,
        "tuples": tuple(tuple(item) for item in lists),
        "dicts": named,
        "BatchEncodings": [BatchEncoding(item) for item in named],
        "ids alone": [item[:1] for item in lists],
        "None between": [[ids, None, torch.arange(ids.shape[1]).unsqueeze(0)] for ids, _ in lists],
    }
    found = {
        form: export(Calibrator(folder, QuantConfig().fa_quant(), data), folder.parent / form)
        for form, data in forms.items()
    }
    for form in forms:
        assert differing(found[form], found["lists"]) == [], form


def test_padding_is_excluded_from_calibration(folder: Path) -> None:
    (ids, mask), *others = script_data()
    pad = torch.zeros(1, 4, dtype=torch.long)
    padded = [[torch.cat([ids, pad + 7], 1), torch.cat([mask, pad], 1)], *others]
    config = QuantConfig().fa_quant()
    plain = export(Calibrator(load(folder), config, script_data()), folder.parent / "plain")
    found = export(Calibrator(load(folder), config, padded), folder.parent / "padded")
    scales = [name for name in plain if name.endswith("_scale") or is_fa(name)]
    for name in scales:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-4, atol=1e-6)
    unmasked = export(Calibrator(load(folder), config, [item[:1] for item in padded]), folder.parent / "all")
    assert any(not torch.allclose(unmasked[name], plain[name], rtol=1e-3) for name in scales)


def test_without_fa_quant_q_k_and_v_stay_float(folder: Path) -> None:
    found = export(Calibrator(load(folder), QuantConfig(), script_data()), folder.parent / "out")
    assert not any(map(is_fa, found))
    assert found["model.layers.0.self_attn.q_proj.weight"].dtype == torch.int8
    assert differing(found, quantized(folder, fa=False)) == []
    description = json.loads((folder.parent / "out" / "quant_model_description.json").read_text())
    assert "fa_quant_type" not in description


def test_disabled_names_and_the_last_linear_stay_float(folder: Path) -> None:
    found = export(Calibrator(folder, QuantConfig(disable_names=DOWN), script_data()), folder.parent / "out")
    floats = {name for name, tensor in found.items() if name.endswith("proj.weight") and tensor.is_floating_point()}
    assert floats == {f"{name}.weight" for name in DOWN}
    assert found["lm_head.weight"].is_floating_point()


def test_fa_amp_above_the_number_of_layers_leaves_all_attention_float(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calibrator = Calibrator(load(folder), QuantConfig().fa_quant(fa_amp=99), script_data())
    found = export(calibrator, folder.parent / "out")
    assert found and not any(map(is_fa, found))
    assert "fa_amp=99: the model has 3 attention modules; all fall back" in caplog.text


def test_the_model_is_not_changed(folder: Path) -> None:
    model = load(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor(token_ids(9))
    with torch.no_grad():
        logits = model(ids).logits
    export(Calibrator(model, QuantConfig(act_method=3).fa_quant(fa_amp=1), script_data()), folder.parent / "out")
    assert differing(before, dict(model.state_dict())) == []
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    quantizers = [module.fa_quantizer for module in model.modules() if hasattr(module, "fa_quantizer")]
    assert [type(quantizer) for quantizer in quantizers] == [FAQuantizer] * 3
    assert [quantizer.transform for quantizer in quantizers] == [None] * 3


def test_a_model_made_without_a_folder_is_exported_with_its_config(tmp_path: Path) -> None:
    model = random_model("llama")
    found = export(Calibrator(model, QuantConfig(), script_data()), tmp_path / "out")
    assert found["model.layers.2.mlp.up_proj.weight"].dtype == torch.int8
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 3
    assert fa3cli.verify(tmp_path / "out").ok


# ---- saved files


@pytest.fixture
def done(folder: Path) -> Calibrator:
    calibrator = Calibrator(folder, QuantConfig().fa_quant(), script_data())
    calibrator.run()
    return calibrator


def test_numpy_files_are_saved_by_default(done: Calibrator, tmp_path: Path) -> None:
    result = done.save(tmp_path / "numpy")
    assert not list(result.output.glob("*.safetensors"))
    saved = {file.stem: np.load(file, allow_pickle=True).item() for file in (tmp_path / "numpy").glob("*.npy")}
    assert saved.keys() >= {"quant_weight", "input_scale", "deq_scale", "fa_quant_scale", "fa_quant_offset"}
    expected = tensors(done.save(tmp_path / "safe", save_type=["safe_tensor"]).output)
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(saved["quant_weight"][name], expected[f"{name}.weight"])
    assert torch.equal(saved["input_scale"][name], expected[f"{name}.input_scale"])


@pytest.mark.parametrize(
    ("save_type", "numpy", "safe_tensor"),
    [
        ("safe_tensor", False, True),
        (["safe_tensor"], False, True),
        ("numpy", True, False),
        ([], True, False),
        (["numpy", "safe_tensor"], True, True),
    ],
)
def test_save_type_selects_the_files(
    done: Calibrator, tmp_path: Path, save_type: Any, numpy: bool, safe_tensor: bool
) -> None:
    result = done.save(str(tmp_path / "out"), save_type=save_type)
    assert result.output == tmp_path / "out"
    assert {file.name for file in result.output.iterdir()} == {*result.files, REPORT_FILE}
    assert any(name.endswith(".npy") for name in result.files) is numpy
    assert any(name.endswith(".safetensors") for name in result.files) is safe_tensor


def test_weight_files_are_not_larger_than_the_limit(done: Calibrator, tmp_path: Path) -> None:
    result = done.save(tmp_path / "parts", save_type=["safe_tensor"], part_file_size=20e-6)
    parts = sorted(result.output.glob("*.safetensors"))
    assert len(parts) > 2
    for part in parts:
        assert sum(tensor.nbytes for tensor in load_file(part).values()) <= 20_000
    whole = tensors(done.save(tmp_path / "whole", save_type=["safe_tensor"]).output)
    merged: dict[str, Tensor] = {}
    for part in parts:
        merged |= load_file(part)
    assert differing(merged, whole) == []
    assert fa3cli.verify(result.output).ok


def test_the_result_counts_samples_tokens_and_modules(done: Calibrator, tmp_path: Path) -> None:
    result = done.save(tmp_path / "out", save_type=["safe_tensor"])
    assert (result.samples, result.tokens) == (3, sum(LENGTHS))
    assert [layer.quantized for layer in result.layers] == [7, 7, 7]
    assert all(layer.fa for layer in result.layers)
    assert fa3cli.verify(result.output).ok


def test_a_relative_output_is_below_the_working_folder(
    done: Calibrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert done.save("here", save_type="safe_tensor").output == tmp_path / "here"


def test_saving_before_running_is_a_usage_error(folder: Path, tmp_path: Path) -> None:
    calibrator = Calibrator(folder, QuantConfig(), script_data())
    with pytest.raises(UsageError, match="nothing is calibrated yet") as raised:
        calibrator.save(tmp_path / "out")
    assert "run()" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_an_output_with_files_is_refused(done: Calibrator, tmp_path: Path) -> None:
    done.save(tmp_path / "out")
    with pytest.raises(ConflictError):
        done.save(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"save_type": ["safetensors"]}, UsageError),
        ({"part_file_size": 0}, UsageError),
        ({"safetensors_name": "mine.safetensors"}, UnsupportedError),
        ({"json_name": "mine.json"}, UnsupportedError),
    ],
    ids=str,
)
def test_invalid_options_of_save_are_refused(
    done: Calibrator, tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        done.save(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ---- errors before any work


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_model("llama", num_hidden_layers=1)


@pytest.mark.parametrize(
    ("call", "error", "exit_code", "problem"),
    [
        (lambda m: Calibrator(m, QuantConfig(w_bit=4), script_data()), UnsupportedError, 3, "w_bit"),
        (lambda m: Calibrator(m, QuantConfig(w_sym=False), script_data()), UnsupportedError, 3, "w_sym"),
        (lambda m: Calibrator(m, QuantConfig(pr=0.5), script_data()), UnsupportedError, 3, "pr=0.5"),
        (
            lambda m: Calibrator(m, QuantConfig().fa_quant(), script_data()),
            UnsupportedError,
            3,
            "none of its attention modules has a quantizer",
        ),
        (
            lambda m: Calibrator(m, QuantConfig(), script_data()).run(int_infer=True),
            UnsupportedError,
            3,
            "int_infer",
        ),
        (
            lambda m: Calibrator(m, QuantConfig(dev_type="npu", dev_id=0), script_data()),
            UsageError,
            2,
            "'npu'",
        ),
        (lambda m: Calibrator(m, QuantConfig(), script_data(), disable_level="L05"), UsageError, 2, "L05"),
        (lambda m: Calibrator(m, QuantConfig(), script_data(), "5"), UsageError, 2, "disable_level"),
        (lambda m: Calibrator(m, QuantConfig().fa_quant(-1), script_data()), UsageError, 2, "fa_amp is -1"),
        (lambda m: Calibrator(m, QuantConfig()), InvalidInputError, 5, "calib_data is empty"),
        (lambda m: Calibrator(m, QuantConfig(), []), InvalidInputError, 5, "calib_data is empty"),
        (
            lambda m: Calibrator(m, QuantConfig(), [*script_data(), ["text"]]),
            InvalidInputError,
            5,
            r"calib_data\[3\]",
        ),
        (
            lambda m: Calibrator(m, QuantConfig(disable_names=["model.layers.9.*"]), script_data()),
            InvalidInputError,
            5,
            r"model\.layers\.9",
        ),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(
    model: nn.Module, call: Callable[[nn.Module], object], error: type, exit_code: int, problem: str
) -> None:
    with pytest.raises(error, match=problem) as raised:
        call(model)
    assert raised.value.exit_code == exit_code


def test_an_unpatched_folder_is_refused_with_fa_quant(tmp_path: Path) -> None:
    folder = write_model(tmp_path / f"llama-{tmp_path.name}", patched=False)
    with pytest.raises(InvalidInputError, match="not patched"):
        Calibrator(folder, QuantConfig().fa_quant(), script_data())
    assert not any(map(is_fa, export(Calibrator(folder, QuantConfig(), script_data()), tmp_path / "out")))


def test_the_names_imported_by_the_guides_modeling_file_exist() -> None:
    from fa3cli import FAQuantizer, logger

    states = torch.ones(1, 2, 3, 4)
    assert FAQuantizer(object(), logger).quant(states, qkv="q") is states
    assert logger.name == "fa3cli"
