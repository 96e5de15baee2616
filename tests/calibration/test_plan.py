from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa3cli.calibration.job import prepare
from fa3cli.calibration.plan import Plan, plan

from .models import WEIGHTS, token_ids, write_lines, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / f"llama-{tmp_path.name}")


def planned(folder: Path, **options: Any) -> Plan:
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(9, 5))
    return plan(prepare(folder, calib=calib, **options))


def test_counts_and_bytes(folder: Path) -> None:
    found = planned(folder)
    assert (found.layers, found.quantized_linears, found.attentions) == (3, 18, 3)
    assert (found.samples, found.tokens, found.passes) == (2, 14, 1)
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
        ({"disable_names": ("*.q_proj",)}, ["q_proj"] * 3),
        ({"disable_names": ("*.0.mlp.gate_proj",)}, ["model.layers.0.mlp.gate_proj"]),
        ({"disable_names": ("*.gate_proj", "*.up_proj")}, []),
    ],
)
def test_warnings_of_what_some_engines_cannot_load(
    folder: Path, options: dict[str, Any], words: list[str]
) -> None:
    found = planned(folder, **options).warnings
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found))
