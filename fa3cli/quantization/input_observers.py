"""Chooses the observer of each linear's input by act_method and numerics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fa3cli.observers import RangeObserver
from fa3cli.observers.input_range import InputRange
from fa3cli.observers.mergeable_histogram import MergeableHistogram
from fa3cli.observers.reference_histogram import HistogramRange
from fa3cli.observers.reference_range import ReferenceRange
from fa3cli.quantization.settings import QuantSettings

__all__ = ["input_observers"]

_LARGEST_RANGE_PARAM = 50  # above it, a histogram would clip outliers that act_method 3 keeps


def input_observers(
    settings: QuantSettings, linears: Sequence[str], range_params: Mapping[str, float]
) -> dict[str, RangeObserver]:
    """Return an observer per linear; equal observers are one object, so that linears with the same input share the work.

    act_method 1 uses the mean of minima and maxima, 2 a histogram, 3 a histogram if the linear's range_param permits.
    """
    mean: RangeObserver = ReferenceRange() if settings.reference else InputRange()
    histogram: RangeObserver = HistogramRange() if settings.reference else MergeableHistogram()
    return {
        name: histogram
        if settings.act_method == 2 or (settings.act_method == 3 and range_params[name] <= _LARGEST_RANGE_PARAM)
        else mean
        for name in linears
    }
