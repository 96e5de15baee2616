"""fa_amp: the modules with the lowest scores fall back, ties in module order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.quantization.fallback import fall_back

scored = st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0]), max_size=12)


@given(scores=scored, count=st.integers(0, 15))
def test_no_module_that_stays_should_have_fallen_back_first(scores: list[float], count: int) -> None:
    modules = {f"layers.{index}.self_attn": score for index, score in enumerate(scores)}
    order = list(modules)
    chosen = fall_back(modules, count)
    assert len(chosen) == min(count, len(modules))
    for inside in chosen:
        for outside in modules.keys() - chosen:
            assert (modules[inside], order.index(inside)) < (modules[outside], order.index(outside))


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "c"), (2, "ac"), (3, "acd"), (4, "abcd"), (99, "abcd")]
)
def test_ties_are_in_module_order_not_by_name(count: int, expected: str) -> None:
    assert fall_back({"c": 0.5, "a": 0.5, "d": 0.9, "b": 1.0}, count) == frozenset(expected)
