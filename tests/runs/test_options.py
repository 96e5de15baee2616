"""Tests that all ways to give options follow the one declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

import fa3cli
from fa3cli.cli.calibrate import calibrate
from fa3cli.cli.export import export
from fa3cli.cli.quantize import quantize
from fa3cli.errors import UsageError
from fa3cli.options import declared
from fa3cli.quantization.settings import QuantSettings
from fa3cli.runs.options import EXPORTS, PIPELINES, ExportOptions, RunOptions, named
from tests.cli.reference import parameters


def offered(command: Callable[..., None]) -> set[str]:
    return {parameter.name for parameter in parameters(command)}


def test_every_setting_is_an_option() -> None:
    assert {field.name for field in fields(QuantSettings)} <= {field.name for field in fields(RunOptions)}


def test_the_commands_have_the_declared_options() -> None:
    run = {*declared(RunOptions), "nproc", "json"}
    assert offered(quantize) == run
    assert offered(calibrate) == run - {*named(EXPORTS), *named(PIPELINES)}
    assert offered(export) == {*declared(ExportOptions), "json"}
    assert {*named(EXPORTS)} <= offered(export)


def test_the_functions_have_the_declared_parameters() -> None:
    for function, kind in (
        (fa3cli.quantize, RunOptions),
        (fa3cli.calibrate, RunOptions),
        (fa3cli.export, ExportOptions),
    ):
        assert list(signature(function).parameters) == [field.name for field in fields(kind)]


def test_settings_contain_only_given_options() -> None:
    assert RunOptions("w").settings == {}
    assert RunOptions("w", fa_amp=0, disable_names=[], samples=3).settings == {"fa_amp": 0, "disable_names": ()}
    assert RunOptions("w", fa_amp=0, disable_names="lm_head").settings == {"fa_amp": 0, "disable_names": ("lm_head",)}


def test_given_names_only_options_that_differ_from_the_defaults() -> None:
    options = RunOptions("w", calib="a.jsonl", target=["vllm"], disable_names=["*.down_proj"])
    assert options.given == ["weights_dir", "calib", "disable_names", "target"]


def test_calibrate_needs_an_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs output"):
        fa3cli.calibrate(tmp_path)
