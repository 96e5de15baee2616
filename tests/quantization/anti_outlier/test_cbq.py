"""Tests m5: channels with outlying extremes are found like outliers in a box plot, and scaled by a power."""

from __future__ import annotations

import random
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.quantization.anti_outlier.cbq import outlier_scale
from tests.quantization.anti_outlier import group_of

ORDINARY = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0]


def scale(high: list[float], low: list[float] | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The scale of channels with these extremes; without `low` they are symmetric."""
    values = torch.tensor([high, low or [-value for value in high]]).to(dtype)
    return outlier_scale(group_of([values], [torch.ones(1, len(high), dtype=dtype)]))


def quantile(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    ordered = sorted(values)
    lower = ordered[int(place)]
    return lower + (ordered[min(int(place) + 1, len(values) - 1)] - lower) * (place - int(place))


def factors_by_hand(extremes: list[float]) -> list[float]:
    """For the upper ends: the threshold, its refinement with several outliers, and the power."""
    upper, lower = quantile(extremes, 0.8), quantile(extremes, 0.2)
    threshold = upper + 1.5 * (upper - lower)
    beyond = sorted((extreme for extreme in extremes if extreme > threshold), reverse=True)
    if len(beyond) > 1:
        widest = -1000.0
        for cut in range(1, len(beyond)):
            rest = beyond[cut:]
            gap = abs(beyond[cut - 1] - beyond[cut]) - (statistics.variance(rest) if len(rest) > 1 else 0)
            if gap > widest:
                widest, threshold = gap, beyond[cut]
    ordinary = max(extreme for extreme in extremes if extreme <= threshold)
    return [(extreme / ordinary) ** 0.7 if extreme > threshold else 1.0 for extreme in extremes]


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("outlier", [4.0, 50.0, 1e6])
def test_a_single_outlier_is_scaled_by_its_ratio_to_the_largest_other(place: int, outlier: float) -> None:
    high = [*ORDINARY[:place], outlier, *ORDINARY[place:]]
    expected = torch.ones(11)
    expected[place] = (outlier / 2.0) ** 0.7
    torch.testing.assert_close(scale(high), expected, rtol=1e-6, atol=0)


def test_without_an_outlier_nothing_is_scaled() -> None:
    assert scale(ORDINARY).tolist() == [1.0] * 10
    assert scale([3.0]).tolist() == [1.0]


@pytest.mark.parametrize("beyond", [[10.0, 11.0, 100.0], [10.0, 98.0, 100.0], [90.0, 100.0], [9.0, 9.0, 9.5, 30.0]])
def test_several_outliers_are_divided_at_their_widest_gap(beyond: list[float]) -> None:
    high = ORDINARY * 2 + beyond
    torch.testing.assert_close(scale(high), torch.tensor(factors_by_hand(high)), rtol=1e-5, atol=0)


def test_values_below_the_widest_gap_are_not_outliers() -> None:
    high = [*(ORDINARY * 2), 10.0, 10.5, 100.0]
    found = scale(high)
    assert found[:-1].tolist() == [1.0] * 22
    assert found[-1].item() == pytest.approx((100 / 10.5) ** 0.7)


@pytest.mark.parametrize("seed", range(40))
def test_the_scale_is_the_larger_factor_of_both_ends(seed: int) -> None:
    """An end without a spread has no outlier: the other end gives the factor.

    Fixed seeds: rounding decides about an extreme that equals the threshold.
    """
    drawn = random.Random(seed)
    extremes = [drawn.randint(1, 4000) / 16 for _ in range(drawn.randint(2, 24))]
    factors = torch.tensor(factors_by_hand(extremes))
    flat = [-1.0] * len(extremes)
    torch.testing.assert_close(scale(extremes, flat), factors, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        scale([-value for value in flat], [-value for value in extremes]), factors, rtol=1e-4, atol=0
    )
    both = torch.maximum(factors, factors.flip(0))
    found = scale(extremes, [-value for value in reversed(extremes)])
    torch.testing.assert_close(found, both, rtol=1e-4, atol=0)


# No values are so small that a factor would exceed float16.
numbers = st.just(0.0) | st.floats(0.25, 60000, width=16) | st.floats(-60000, -0.25, width=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(ends=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=16))
def test_the_scale_is_finite_and_positive_for_any_channels(dtype: torch.dtype, ends: list[tuple[float, float]]) -> None:
    high, low = [max(channel) for channel in ends], [min(channel) for channel in ends]
    found = scale(high, low, dtype)
    assert found.dtype == dtype and found.shape == (len(ends),)
    assert found.isfinite().all() and (found > 0).all()


@given(ends=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=16))
def test_minima_are_treated_like_maxima(ends: list[tuple[float, float]]) -> None:
    high, low = [max(channel) for channel in ends], [min(channel) for channel in ends]
    assert torch.equal(scale(high, low), scale([-value for value in low], [-value for value in high]))


def test_one_active_channel_among_dead_channels_is_not_scaled() -> None:
    assert scale([0.0] * 9 + [5.0]).tolist() == [1.0] * 10


def test_weights_do_not_change_the_scale() -> None:
    values = torch.tensor([[*ORDINARY, 50.0]])
    found = [outlier_scale(group_of([values], [weight])) for weight in (torch.zeros(1, 11), torch.ones(3, 11))]
    assert torch.equal(*found) and found[0][-1] > 1


@pytest.mark.parametrize(("largest", "outlying"), [(16.9, False), (17.1, True)])
def test_the_threshold_is_one_and_a_half_spreads_above_the_upper_quantile(largest: float, outlying: bool) -> None:
    """For 0..9 and the largest value, the quantiles are 8 and 2."""
    found = scale([*map(float, range(10)), largest], [-1.0] * 11)
    assert (found[-1] > 1).item() == outlying and found[:-1].tolist() == [1.0] * 10


def test_a_positive_outlier_among_negative_values_is_not_scaled() -> None:
    """Its ratio is negative, so it has no power."""
    assert scale([-5.0] * 9 + [3.0], [-6.0] * 10).tolist() == [1.0] * 10
