from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa3cli.calibration.job import prepare
from fa3cli.calibration.passes import Streams
from fa3cli.calibration.plan import Plan, plan

from .models import WEIGHTS, edit_weights, token_ids, write_lines, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def planned(folder: Path, **options: Any) -> Plan:
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(9, 5))
    return plan(prepare(folder, calib=calib, **{"recipe": "default"} | options))


def test_counts_and_bytes(folder: Path) -> None:
    found = planned(folder)
    assert (found.layers, found.quantized_linears, found.attentions) == (3, 18, 3)
    assert (found.samples, found.tokens, found.passes) == (2, 14, (Streams(calibration=2),))
    assert len(found.float_linears) == 3 + 1 and "lm_head" in found.float_linears
    assert 0 < (folder / WEIGHTS).stat().st_size - found.bytes_read < 10_000
    assert found.recipe == "default" and found.settings["act_method"] == 1
    assert (found.dtype, found.warnings) == ("float32", ())


def test_memory_is_a_layers_whatever_the_depth(folder: Path) -> None:
    deep = write_model(folder.with_name(f"deep-{folder.name}"), num_hidden_layers=9)
    assert planned(deep).peak_memory == planned(folder).peak_memory < planned(folder).bytes_read
    assert planned(deep).bytes_read > 2 * planned(folder).bytes_read


def test_half_the_dtype_is_half_the_memory(folder: Path) -> None:
    assert planned(folder, dtype="bfloat16").peak_memory * 2 == planned(folder).peak_memory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fa_amp": 1}, ["some layers stay without FA3"]),
        ({"fa_amp": 3}, []),  # none is left with it: the same as --no-fa
        ({"fa_amp": 4}, ["all fall back"]),
        ({"disable_names": ("*.1.self_attn",)}, ["some layers stay without FA3"]),
        ({"fa": False}, []),
        ({"disable_names": ("*.q_proj",)}, []),  # the whole group falls back
        ({"disable_names": ("*.q_proj",), "numerics": "reference"}, ["q_proj"] * 3),
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
def test_warnings_of_what_some_engines_cannot_load(
    folder: Path, options: dict[str, Any], words: list[str]
) -> None:
    found = planned(folder, **options).warnings
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found))


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"act_method": 2}, (Streams(calibration=7),)),
        ({"act_method": 3}, (Streams(features=5, calibration=7),)),
        ({"anti_method": "m3"}, (Streams(smoothing=1, calibration=7),)),
        ({"disable_level": "L1"}, (Streams(features=5), Streams(calibration=7))),
        (
            {"act_method": 3, "anti_method": "m3", "disable_level": "L1"},
            (Streams(smoothing=1, features=5), Streams(calibration=7)),
        ),
    ],
)
def test_what_settings_cost_in_forwards_and_passes(
    folder: Path, options: dict[str, Any], passes: tuple[Streams, ...]
) -> None:
    calib = write_lines(folder.parent / "seven.jsonl", token_ids(*range(3, 10)))
    found, plain = (plan(prepare(folder, calib=calib, recipe="none", **each)) for each in (options, {}))
    assert found.passes == passes and plain.passes == (Streams(calibration=7),)
    assert found.bytes_read == len(passes) * plain.bytes_read
    assert found.origins == dict.fromkeys(found.settings, "default") | dict.fromkeys(options, "option")


def test_tensors_stored_in_another_dtype_are_said(folder: Path) -> None:
    edit_weights(
        folder, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].half()})
    )
    (warning,) = planned(folder).warnings
    assert "model.norm.weight" in warning and "cast to float32" in warning
