"""Tests which observer an input gets, and that linears of one kind share it."""

from __future__ import annotations

import pytest

from fa3cli.observers.input_range import InputRange
from fa3cli.observers.mergeable_histogram import MergeableHistogram
from fa3cli.observers.reference_histogram import HistogramRange
from fa3cli.observers.reference_range import ReferenceRange
from fa3cli.quantization.input_observers import input_observers
from fa3cli.quantization.settings import QuantSettings

KINDS = {"improved": (InputRange, MergeableHistogram), "reference": (ReferenceRange, HistogramRange)}
PARAMS = {"flat": 0.5, "below": 49.99, "at": 50.0, "above": 50.01, "peaked": 5000.0}


@pytest.mark.parametrize("numerics", KINDS)
@pytest.mark.parametrize(
    ("act_method", "histograms"),
    [(1, set()), (2, set(PARAMS)), (3, {"flat", "below", "at"})],
)
def test_act_method_3_uses_a_histogram_up_to_a_range_param_of_50(
    numerics: str, act_method: int, histograms: set[str]
) -> None:
    settings = QuantSettings(act_method=act_method, numerics=numerics)
    found = input_observers(settings, list(PARAMS), PARAMS)
    mean, histogram = KINDS[numerics]
    assert list(found) == list(PARAMS)
    assert {name: type(observer) for name, observer in found.items()} == {
        name: histogram if name in histograms else mean for name in PARAMS
    }
    assert all(observer.tokens == 0 for observer in found.values())
    # One object per kind, so that a shared input is observed once.
    assert len({id(observer) for observer in found.values()}) == len({type(observer) for observer in found.values()})


@pytest.mark.parametrize("act_method", [1, 2])
def test_only_act_method_3_needs_a_range_param(act_method: int) -> None:
    settings = QuantSettings(act_method=act_method)
    assert list(input_observers(settings, ["a", "b"], {})) == ["a", "b"]
    with pytest.raises(KeyError):
        input_observers(QuantSettings(act_method=3), ["a"], {})


def test_a_nan_range_param_uses_no_histogram() -> None:
    found = input_observers(QuantSettings(act_method=3), ["a"], {"a": float("nan")})
    assert isinstance(found["a"], InputRange)
