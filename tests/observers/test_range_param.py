"""range_param: the largest magnitude in standard deviations around the sum of each channel's ends."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.observers.range_param import RangeParam
from tests.golden import ABSENT, case_file, cases


def observe(samples: list[Tensor]) -> RangeParam:
    observed = RangeParam()
    for sample in samples:
        observed = observed.updated(sample)
    return observed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_value_follows_the_formula_of_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [(torch.randn(1, 9, 4, generator=generator) * scale).to(dtype) for scale in (1, 3, 2)]
    largest = max(sample.abs().max().item() for sample in samples)
    deviations = []
    for sample in samples:
        shift = sample[0].amax(0) + sample[0].amin(0)
        deviations.append((sample[0] - shift).std())
    observed = observe(samples)
    assert observed.tokens == 27
    assert observed.value() == (torch.tensor(largest, dtype=dtype) / max(deviations)).item()


def test_a_batch_counts_as_more_tokens() -> None:
    values = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    assert observe([values]).value() == observe([values.view(1, 10, 4)]).value()


def test_a_linear_without_samples_has_a_range_param_of_zero() -> None:
    assert RangeParam().value() == 0.0


@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(2, 6), max_size=6),
    ranks=st.integers(1, 4),
    in_float32=st.booleans(),
)
def test_merged_ranks_equal_one_observer(seed: int, lengths: list[int], ranks: int, in_float32: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.randn(1, length, 3, generator=generator).bfloat16() for length in lengths]
    shares = [RangeParam(in_float32=in_float32) for _ in range(ranks)]
    whole = RangeParam(in_float32=in_float32)
    for number, sample in enumerate(samples):
        whole = whole.updated(sample)
        shares[number % ranks] = shares[number % ranks].updated(sample)
    merged = shares[0].merged(*shares[1:])
    assert (merged.tokens, merged.value(), merged.in_float32) == (whole.tokens, whole.value(), in_float32)


@ABSENT
def test_golden_values_select_the_linears_that_the_guides_tool_left_float() -> None:
    """The guide's tool left the linears float that have the widest of the features it stored."""
    for name, case in cases().items():
        if case["disable_level"] == "L5":
            features = json.loads(case_file(name, "debug_features.json").read_text())
            values = {
                linear: max(abs(feature["t_max"]), abs(feature["t_min"])) / feature["std"]
                for linear, feature in features.items()
                if linear not in case["disable_names"] and linear != "lm_head"
            }
            fallen = set(case["rollback_names"]) - set(case["disable_names"]) - {"lm_head"}
            assert fallen == set(sorted(values, key=values.__getitem__, reverse=True)[:5])
