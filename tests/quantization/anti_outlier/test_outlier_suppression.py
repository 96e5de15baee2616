"""Tests m2: among a hundred thresholds it finds the one with the least output error of int8 inputs, against a slow search in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.outlier_suppression import suppressed_scale
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale
from tests.quantization.anti_outlier import group_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def noisy_group(
    seed: int,
    *,
    rows: tuple[int, ...] = (8, 4, 4),
    outliers: tuple[float, ...] = (60.0,),
    biased: bool = False,
    dtype: torch.dtype = torch.float64,
) -> GroupData:
    """Uniform noise within -1..1 in 12 channels; the first ones have outliers of both signs."""
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.rand(tokens, 12, generator=generator) * 2 - 1 for tokens in (40, 30)]
    for channel, outlier in enumerate(outliers):
        samples[0][channel, channel], samples[0][-1, channel] = outlier, -0.8 * outlier
        samples[1][channel, channel] = 0.5 * outlier
    weights = [torch.randn(count, 12, generator=generator).to(dtype) for count in rows]
    biases = [torch.randn(count, generator=generator).to(dtype) for count in rows] if biased else None
    return group_of([sample.to(dtype) for sample in samples], weights, biases)


class Search:
    """The candidates and their errors, in float64 and with loops."""

    def __init__(self, group: GroupData) -> None:
        self.group = group
        low, high = [math.inf] * 12, [-math.inf] * 12
        self.half, self.top, self.deviation = [-math.inf] * 12, -math.inf, 0.0
        for sample in group.inputs.samples:
            for channel, column in enumerate(sample.T.tolist()):
                low[channel], high[channel] = min(low[channel], *column), max(high[channel], *column)
            self.shift = torch.tensor([(a + b) / 2 for a, b in zip(low, high)], dtype=torch.double)
            centered = sample - self.shift
            self.half = [max(half, *column) for half, column in zip(self.half, centered.T.tolist())]
            self.top = max(self.top, *self.half)
            spread = ((centered - centered.mean()) ** 2).sum() / (centered.numel() - 1)
            self.deviation = max(self.deviation, spread.item() ** 0.5)
        self.largest = torch.cat(list(group.weights)).abs().amax(0).tolist()

    def candidates(self) -> list[Tensor]:
        found = []
        for index in range(100):
            threshold = self.deviation + (self.top - self.deviation) * index / 99
            found.append(
                torch.tensor(
                    [
                        (half / weight) ** 0.5 if half / threshold > 1 else 1.0
                        for half, weight in zip(self.half, self.largest)
                    ],
                    dtype=torch.double,
                )
            )
        return found

    def output(self, values: Tensor, shift: Tensor) -> Tensor:
        """The output for a sample minus `shift`, which the biases add again."""
        zero = torch.zeros((), dtype=torch.double)
        outputs = [
            (values + shift) @ weight.T + (zero if bias is None else bias)
            for weight, bias in zip(self.group.weights, self.group.biases)
        ]
        if len(outputs) < 3:
            return outputs[0]
        query, key, value = outputs
        heads = []
        for part in query.split(key.shape[1], dim=1):
            logits = part @ key.T / key.shape[1] ** 0.5
            powers = (logits - logits.amax(1, keepdim=True)).exp()
            heads.append(powers / powers.sum(1, keepdim=True) @ value)
        return torch.stack(heads)

    def error(self, scale: Tensor) -> float:
        values, zero = self.group.inputs.samples[0], torch.zeros(12, dtype=torch.double)
        smoothed = (values - self.shift) / scale
        low, high = min(smoothed.min().item(), 0), max(smoothed.max().item(), 0)
        step = (high - low) / 255
        offset = round(-low / step) - 128
        levels = (smoothed / step + offset).round().clamp(-128, 127)
        found = self.output((levels - offset) * step * scale, self.shift)
        return ((found - self.output(values, zero)) ** 2).mean().item()


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([(8, 4, 4), (4, 4, 4), (5, 3)]),
    outliers=st.sampled_from([(60.0,), (60.0, 9.0), (5.0, 40.0, 20.0, -30.0)]),
    biased=st.booleans(),
)
def test_no_threshold_has_a_lower_output_error(
    seed: int, rows: tuple[int, ...], outliers: tuple[float, ...], biased: bool
) -> None:
    group = noisy_group(seed, rows=rows, outliers=outliers, biased=biased)
    search, found = Search(group), suppressed_scale(group)
    assert search.top > 3 * search.deviation
    candidates = search.candidates()
    assert min((found / candidate - 1).abs().max().item() for candidate in candidates) < 1e-6
    least = min(search.error(candidate) for candidate in candidates)
    assert search.error(found) <= least * (1 + 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(8, 4, 4), (5, 3)])
def test_without_an_outlier_the_scale_equals_that_of_m1(dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    group = noisy_group(0, rows=rows, outliers=(), dtype=dtype)
    found = suppressed_scale(group)
    assert found.dtype == dtype and torch.equal(found, balanced_scale(group))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(8, 4, 4), (5, 3)])
def test_only_the_outlier_channel_is_scaled(dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    group = noisy_group(0, rows=rows, dtype=dtype)
    found, search = suppressed_scale(group), Search(group)
    assert found.dtype == dtype
    assert found[1:].tolist() == [1.0] * 11
    expected = (search.half[0] / search.largest[0]) ** 0.5
    assert found[0].item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps) and expected > 3


def test_the_limit_is_three_deviations() -> None:
    """A channel of -1 and 1, n values in all, has one larger pair: above sqrt(n / 18) or not."""
    for reach, outlying in ((3.3, False), (3.6, True)):
        values = torch.ones(40, 2)
        values[::2] = -1.0
        values[0, 0], values[1, 0] = reach, -reach
        group = group_of([values], [torch.full((1, 2), 0.5)])
        spread = values.std().item()
        assert (reach > 3 * spread) == outlying
        assert torch.equal(suppressed_scale(group), balanced_scale(group)) != outlying


def test_only_the_first_of_gate_and_up_is_compared() -> None:
    """The output of up does not matter if the largest weights stay the same."""
    group = noisy_group(5, rows=(5, 3), outliers=(5.0, 40.0, 20.0, -30.0))
    gate, up = group.weights
    longer = replace(group, weights=(gate, torch.cat([up, up * 0.5])), biases=(None, torch.ones(6).double()))
    assert torch.equal(suppressed_scale(group), suppressed_scale(longer))


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_the_first_linear_decides_in_either_order(seed: int) -> None:
    """The first of two linears decides, in either order."""
    group = noisy_group(seed, rows=(5, 5), outliers=(60.0, 25.0, 12.0, 40.0))
    gate, up = (weight.clone() for weight in group.weights)
    gate[:, 1:4] *= 0.02
    up[:, 4:] *= 0.01
    scales = []
    for weights in ((gate, up), (up, gate)):
        search = Search(replace(group, weights=weights))
        scales.append(suppressed_scale(search.group))
        assert search.error(scales[-1]) <= min(map(search.error, search.candidates())) * (1 + 1e-4)
    assert not torch.allclose(*scales)


def test_a_channel_far_below_its_middle_is_not_an_outlier() -> None:
    """The extent of a channel is signed: only values above the middle count."""
    samples = [sample.clone() for sample in noisy_group(4).inputs.samples]
    samples[1][:, 5] = -30.0
    group = group_of(samples, noisy_group(4).weights)
    assert Search(group).half[5] < 1
    assert suppressed_scale(group)[5] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_deviation_is_that_of_the_widest_sample(order: int) -> None:
    values = torch.ones(40, 2)
    values[::2] = -1.0
    outlying, wide = values.clone(), values * 1.3
    outlying[0, 0], outlying[1, 0] = 3.6, -3.6
    assert 3 * outlying.std() < 3.6 < 3 * wide.std()
    aside = torch.tensor([0.0, 0.5])  # the shift removes this, but m1 does not
    group = group_of([outlying + aside, wide + aside][::order], [torch.full((1, 2), 0.5)])
    assert torch.equal(suppressed_scale(group), balanced_scale(group))


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32), reach=st.floats(1, 1000))
@settings(max_examples=8)
def test_the_scale_is_finite_and_positive(dtype: torch.dtype, seed: int, reach: float) -> None:
    found = suppressed_scale(noisy_group(seed, outliers=(reach, -reach), dtype=dtype))
    assert found.dtype == dtype and found.isfinite().all() and (found > 0).all()
