from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fa3cli.errors import InvalidInputError
from fa3cli.planning.plan import Plan, plan
from tests.models.published.test_conversions import TYPES
from tests.sample_models import (
    WEIGHTS,
    edit_weights,
    prepare,
    token_ids,
    write_config,
    write_lines,
    write_model,
)


def streams(smoothing: int = 0, range_param: int = 0, calibration: int = 0) -> dict[str, int]:
    return {"smoothing": smoothing, "range_param": range_param, "calibration": calibration}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def planned(folder: Path, **options: Any) -> Plan:
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(9, 5))
    found = plan(prepare(folder, **{"calib": calib, "recipe": "default"} | options))
    return replace(found, warnings=tuple(others(found.warnings)))


def others(warnings: tuple[str, ...]) -> list[str]:
    """All warnings except those about engines that every FA3 export of the tiny model has."""
    usual = r"FA3 as FAQuant|head_dim is \d+; mindie-turbo|tensor parallel"
    return [warning for warning in warnings if not re.search(usual, warning)]


def test_a_plan_counts_modules_samples_and_bytes(folder: Path) -> None:
    found = planned(folder)
    assert (found.layers, found.quantized_linears, found.attentions) == (3, 18, 3)
    assert (found.samples, found.tokens, found.passes) == (2, 14, (streams(calibration=2),))
    assert len(found.float_linears) == 3 + 1 and "lm_head" in found.float_linears
    assert 0 < (folder / WEIGHTS).stat().st_size - found.bytes_read < 10_000
    assert found.recipe == "default" and found.settings["act_method"] == 1
    assert (found.dtype, found.warnings) == ("float32", ())


def test_bytes_read_do_not_depend_on_the_dtype_of_the_run(folder: Path) -> None:
    assert planned(folder, dtype="bfloat16").bytes_read == planned(folder).bytes_read


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fa_amp": 1}, ["some layers stay without FA3"]),
        ({"fa_amp": 3}, []),  # no attention keeps FA3: the same as --no-fa
        ({"fa_amp": 4}, ["all fall back"]),
        ({"disable_names": ("*.1.self_attn",)}, ["some layers stay without FA3"]),
        ({"fa": False}, []),
        ({"disable_names": ("*.q_proj",)}, []),  # the whole group falls back
        ({"disable_names": ("*.q_proj",), "numerics": "reference"}, ["q_proj and 2 others"]),
        (
            {"disable_names": ("*.0.mlp.gate_proj",), "numerics": "reference"},
            ["model.layers.0.mlp.gate_proj"],
        ),
        ({"disable_level": "L2"}, []),
        ({"disable_level": "L2", "numerics": "reference"}, ["may split fused ones"]),
        ({"disable_level": "L99"}, ["18 linears are quantized; all fall back"]),
        ({"disable_names": ("*.gate_proj", "*.up_proj")}, []),
    ],
)
def test_a_plan_warns_of_exports_that_some_engines_cannot_load(
    folder: Path, options: dict[str, Any], words: list[str]
) -> None:
    found = planned(folder, **options).warnings
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found))


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"act_method": 2}, (streams(calibration=7),)),
        ({"act_method": 3}, (streams(range_param=5, calibration=7),)),
        ({"anti_method": "m3"}, (streams(smoothing=1, calibration=7),)),
        ({"disable_level": "L1"}, (streams(range_param=5), streams(calibration=7))),
        (
            {"act_method": 3, "anti_method": "m3", "disable_level": "L1"},
            (streams(smoothing=1, range_param=5), streams(calibration=7)),
        ),
    ],
)
def test_settings_determine_forwards_and_passes(
    folder: Path, options: dict[str, Any], passes: tuple[dict[str, int], ...]
) -> None:
    calib = write_lines(folder.parent / "seven.jsonl", token_ids(*range(3, 10)))
    found, plain = (plan(prepare(folder, calib=calib, recipe="none", **settings)) for settings in (options, {}))
    assert found.passes == passes and plain.passes == (streams(calibration=7),)
    layers = plain.bytes_read - 4 * (2 * 96 * 32 + 32)  # embedding, head and last norm are read once
    assert found.bytes_read == plain.bytes_read + (len(passes) - 1) * layers
    assert found.origins == dict.fromkeys(found.settings, "default") | dict.fromkeys(options, "option")


def test_a_plan_warns_of_tensors_stored_in_another_dtype(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].half()}))
    (warning,) = planned(folder).warnings
    assert "model.norm.weight" in warning and "cast to float32" in warning


def test_bytes_written_cover_any_linears_that_disable_level_selects(folder: Path) -> None:
    plain, level = (planned(folder, disable_level=name).bytes_written for name in ("L0", "L2"))
    assert level - plain > 2 * 2 * 48 * 32 * 2  # gate and up of two layers: 3 more bytes per weight, less per row
    assert planned(folder, disable_level="L2", numerics="reference").bytes_written < level


def test_a_plan_is_the_same_without_weights(tmp_path: Path) -> None:
    options = {"dtype": torch.bfloat16, "tie_word_embeddings": True}
    folder = write_model(tmp_path / "model", **options)
    with_weights = planned(folder)
    (folder / WEIGHTS).unlink()
    found = planned(folder, only_plan=True)
    assert len(found.warnings) == 1 and "no weights" in found.warnings[0]
    assert replace(found, warnings=()) == with_weights
    with pytest.raises(InvalidInputError, match="no weights"):
        planned(folder)


def test_tokens_are_estimated_without_a_tokenizer(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "model")
    calib = write_lines(tmp_path / "text.jsonl", [{"text": "word " * 16}, {"input_ids": [5, 6, 7]}])
    found = planned(folder, calib=calib, only_plan=True)
    assert found.tokens == 21 + 3 and "no tokenizer" in found.warnings[1]


def test_tokens_are_counted_by_an_existing_tokenizer(qwen2_tiny: Path, tmp_path: Path) -> None:
    calib = write_lines(tmp_path / "text.jsonl", [{"text": "In the beginning"}])
    with_weights = planned(qwen2_tiny, calib=calib)
    (qwen2_tiny / WEIGHTS).unlink()
    found = planned(qwen2_tiny, calib=calib, only_plan=True)
    assert found.tokens == with_weights.tokens and len(found.warnings) == 1


# Sizes of Llama-3.1-70B, whose files are 141 GB.
LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "dtype": "bfloat16",
}


def test_a_model_larger_than_memory_can_be_planned(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "llama-70b", **LLAMA_70B)
    found = planned(folder, only_plan=True)
    assert (found.layers, found.quantized_linears, found.attentions) == (80, 480, 80)
    assert found.bytes_read == 141_107_412_992
    assert 90e9 < found.bytes_written < 93e9  # down_proj, embedding and head in bfloat16
    layer = 1_711_309_824
    assert found.peak_memory < 1.6 * layer


def test_a_plan_lists_routers_and_counts_schemes(tmp_path: Path) -> None:
    """In transformers 5 routers are no linears; they are listed all the same."""
    folder = write_model(tmp_path / "mixtral", "mixtral", **TYPES["mixtral"])
    found = planned(folder, recipe="none")
    routers = [name for name in found.float_linears if name.endswith(".gate")]
    assert len(routers) == found.layers and found.schemes["W8A8_DYNAMIC"] == found.layers * 12 * 3
    assert sum(found.schemes.values()) == found.quantized_linears
