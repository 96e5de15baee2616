"""Tests that all ways to give options follow the one declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from fa3cli.cli.calibrate import calibrate
from fa3cli.cli.export import export
from fa3cli.cli.quantize import quantize
from fa3cli.errors import UsageError
from fa3cli.quantization.settings import QuantSettings
from fa3cli.runs.options import EXPORTS, PIPELINES, RunOptions, declared, named
from tests.cli.reference import parameters


def offered(command: Callable[..., None]) -> set[str]:
    return {parameter.name for parameter in parameters(command)}


def test_every_setting_is_an_option() -> None:
    assert {field.name for field in fields(QuantSettings)} <= {field.name for field in fields(RunOptions)}


def test_the_commands_offer_what_is_declared() -> None:
    assert offered(quantize) == {*declared(), "nproc", "json"}
    assert offered(calibrate) == {*declared(), "nproc", "json"} - {*named(EXPORTS), *named(PIPELINES)}
    assert offered(export) == {
        *named(EXPORTS),
        "weights_dir",
        "output",
        "calibration",
        "trust_remote_code",
        "json",
    }


def test_settings_hold_only_what_was_given() -> None:
    assert RunOptions.of("w").settings == {}
    assert RunOptions.of("w", fa_amp=0, disable_names=[], samples=3).settings == {
        "fa_amp": 0,
        "disable_names": (),
    }


def test_a_script_may_give_texts_and_lists() -> None:
    options = RunOptions.of("w", calib="a.jsonl", target=["vllm"], disable_names=["*.down_proj"])
    assert options == RunOptions(
        weights_dir=Path("w"), calib=Path("a.jsonl"), target=("vllm",), disable_names=("*.down_proj",)
    )
    assert options.given == ["weights_dir", "calib", "disable_names", "target"]


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="unknown option 'fa_amb'") as caught:
        RunOptions.of("w", fa_amb=5)
    assert caught.value.hint == "did you mean fa_amp?"
