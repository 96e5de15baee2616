"""Tests that a report of any version, and any JSON, is read without an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.report.facts import FloatModule, ImageAccuracy, TimestepPeaks
from fa3cli.report.recorded import Recorded, read_recorded
from tests.report.exports import layer, report_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


def test_both_formats_of_float_linears_are_read() -> None:
    older = layer(0) | {"float_linears": ["model.layers.0.mlp.down_proj"]}
    recorded = read_recorded(report_of([older, layer(1)]))
    assert recorded.layers["model.layers.0"].float_linears == (FloatModule("model.layers.0.mlp.down_proj", None),)
    assert recorded.layers["model.layers.1"].float_linears == (
        FloatModule("model.layers.1.mlp.down_proj", "disable_names"),
    )


def test_a_report_without_optional_fields_is_read() -> None:
    report = report_of([layer(0)])
    for name in ("target", "comparison"):
        del report[name]
    for name in ("error", "fa_reason"):
        del report["result"]["layers"][0][name]
    recorded = read_recorded(report)
    assert recorded.accuracy is None and recorded.target is None and recorded.layer_errors == ()
    assert recorded.layers["model.layers.0"].error is None
    assert recorded.origin.recipe == "qwen2.5-72b"


def test_a_report_of_a_script_has_no_identity() -> None:
    recorded = read_recorded(report_of([layer(0)], identity=None))
    assert recorded.origin.settings == {} and recorded.origin.hashes == {}


@settings(max_examples=40)
@given(JSON)
def test_any_json_value_is_accepted_in_any_field(value: object) -> None:
    report = report_of([layer(0)])
    for place in ("identity", "recipe", "target", "result", "comparison"):
        assert isinstance(read_recorded(report | {place: value}), Recorded)
    for place in report["result"]:
        assert isinstance(read_recorded(report | {"result": report["result"] | {place: value}}), Recorded)
    for place in report["result"]["layers"][0]:
        changed = report["result"] | {"layers": [layer(0) | {place: value}]}
        assert isinstance(read_recorded(report | {"result": changed}), Recorded)


@pytest.mark.parametrize("psnr", [[], None, 3, ["40"], [float("nan")]])
def test_a_comparison_of_images_is_read(psnr: object) -> None:
    found = {"prompts": 2, "psnr": [40.0, None], "mean_psnr": 40.0, "largest_difference": 0.25}
    recorded = read_recorded(report_of([layer(0)], comparison=found))
    assert recorded.accuracy is None and recorded.images == ImageAccuracy(2, (40.0, None), 40.0, 0.25)
    recorded = read_recorded(report_of([layer(0)], comparison=found | {"psnr": psnr}))
    assert recorded.accuracy is None and recorded.images is None


def test_invalid_peaks_of_timesteps_are_ignored() -> None:
    timesteps = [
        {"timestep": 999.0, "q": 4.2, "k": "3", "v": 1},
        {"timestep": None, "q": 1.0},
        [],
        {"q": 2.0},
    ]
    recorded = read_recorded(report_of([layer(0) | {"timesteps": timesteps}, layer(1)]))
    assert recorded.layers["model.layers.0"].timesteps == (TimestepPeaks(999.0, 4.2, None, 1.0),)
    assert recorded.layers["model.layers.1"].timesteps == ()


@settings(max_examples=40)
@given(JSON, st.sampled_from(["timestep", "q", "k", "v"]))
def test_any_json_value_is_accepted_as_peaks(value: object, place: str) -> None:
    peaks = {"timestep": 999.0, "q": 1.0, "k": 1.0, "v": 1.0} | {place: value}
    for timesteps in (value, [value], [peaks]):
        assert isinstance(read_recorded(report_of([layer(0) | {"timesteps": timesteps}])), Recorded)


@pytest.mark.parametrize("huge", [10**400, -(10**400), float("nan"), float("inf")])
def test_invalid_numbers_are_ignored(huge: float) -> None:
    assert read_recorded(report_of([layer(0) | {"error": huge}])).layers["model.layers.0"].error is None
