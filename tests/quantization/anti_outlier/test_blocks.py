"""Tests that weights in blocks give the same scale as whole weights, except for rounding by the order of sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa3cli.quantization.anti_outlier.awq import searched_scale
from fa3cli.quantization.anti_outlier.flex_smooth import flexible_scale
from fa3cli.quantization.anti_outlier.outlier_suppression import suppressed_scale
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale, largest_weights, migrated_scale
from tests.quantization.anti_outlier import group_of, random_group
from tests.quantization.anti_outlier.test_awq import error
from tests.quantization.anti_outlier.test_outlier_suppression import Search, noisy_group

# Of 8 channels: less than a row, one row, five rows, all.
BLOCKS = st.sampled_from([1, 8, 40, 10_000])
ROWS = st.lists(st.integers(1, 23), min_size=1, max_size=3)
# Sums in another order may choose another power, but only one with nearly the same error.
TIE = 1.02


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rows=ROWS, block=BLOCKS)
def test_every_row_of_every_linear_is_in_one_block(seed: int, rows: list[int], block: int) -> None:
    group = replace(random_group(seed, rows=rows), block=block)
    for weight in group.weights:
        blocks = list(group.blocks(weight))
        assert torch.equal(torch.cat([part for _, part in blocks]), weight)
        assert all(torch.equal(weight[rows], part) for rows, part in blocks)
        assert all(part.numel() <= max(block, 8) for _, part in blocks)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rows=ROWS, block=BLOCKS)
def test_the_largest_weights_do_not_depend_on_blocks(seed: int, rows: list[int], block: int) -> None:
    whole = random_group(seed, rows=rows)
    group = replace(whole, block=block)
    for rule in (largest_weights, balanced_scale, migrated_scale):
        assert torch.equal(rule(group), rule(whole))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rows=ROWS, block=BLOCKS, biased=st.booleans())
def test_outputs_do_not_depend_on_blocks(seed: int, rows: list[int], block: int, biased: bool) -> None:
    whole = random_group(seed, rows=rows, biased=biased)
    group, values = replace(whole, block=block), whole.inputs.samples[0]
    for weight, bias in zip(group.weights, group.biases):
        torch.testing.assert_close(group.outputs(values, weight, bias), whole.outputs(values, weight, bias))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    rows=ROWS,
    block=BLOCKS,
    biased=st.booleans(),
    spread=st.sampled_from([0.5, 2.0]),
)
def test_m3_chooses_the_same_power_with_blocks(
    seed: int, rows: list[int], block: int, biased: bool, spread: float
) -> None:
    whole = random_group(seed, rows=rows, biased=biased, spread=spread)
    found, expected = searched_scale(replace(whole, block=block)), searched_scale(whole)
    if not torch.allclose(found, expected):
        errors = [error(whole, scale.double()) for scale in (found, expected)]
        assert max(errors) <= TIE * min(errors)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([(8, 4, 4), (5, 3), (9,)]),
    outliers=st.sampled_from([(60.0,), (5.0, 40.0, 20.0, -30.0), ()]),
    block=st.sampled_from([1, 12, 40]),
    biased=st.booleans(),
)
def test_m2_chooses_the_same_threshold_with_blocks(
    seed: int, rows: tuple[int, ...], outliers: tuple[float, ...], block: int, biased: bool
) -> None:
    options = {"rows": rows, "outliers": outliers, "biased": biased}
    whole = noisy_group(seed, **options, dtype=torch.float32)
    found, expected = suppressed_scale(replace(whole, block=block)), suppressed_scale(whole)
    if not torch.allclose(found, expected):
        search = Search(noisy_group(seed, **options))
        errors = [search.error(scale.double()) for scale in (found, expected)]
        assert max(errors) <= TIE * min(errors)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("block", [1, 40])
@pytest.mark.parametrize(("rows", "heads", "repeats"), [((23, 11, 4), 1, 1), ((17,), 2, 2)])
def test_m6_chooses_the_same_powers_with_blocks(
    seed: int, block: int, rows: tuple[int, ...], heads: int, repeats: int
) -> None:
    """Uses seeds without near ties: the second search continues with the result of the first."""
    whole = random_group(seed, rows=rows, heads=heads, repeats=repeats, spread=1.5)
    torch.testing.assert_close(flexible_scale(replace(whole, block=block)), flexible_scale(whole))


def test_a_last_linear_in_its_own_block_counts() -> None:
    """The last row of the last linear decides the power."""
    values = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 5, 60])
    scales = [searched_scale(group_of([values], [torch.ones(3, 4)]))]
    awkward = torch.cat([torch.ones(3, 4), 1e4 * torch.tensor([[300.0, 0.7, 0.3, 0.002]])])
    for block in (None, 4):
        group = group_of([values], [torch.ones(3, 4), awkward])
        scales.append(searched_scale(replace(group, block=block)))
    assert torch.equal(scales[1], scales[2]) and not torch.allclose(scales[0], scales[1])
