"""Tests FA3 parameters: one scale per head, which maps the range's farther end to 127."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.quantization.attention import quantize_heads
from tests.golden import ABSENT, cases, exported, observed_ranges

# Batched calls of the guide's tool mix the heads (NUMERICS.md): its ranges are wrong there.
UNBATCHED = [name for name, case in cases().items() if case["inputs"] != "batch2"]
ends = st.floats(-30000, 30000, width=32)


@ABSENT
@pytest.mark.parametrize("name", UNBATCHED)
def test_scales_are_those_of_the_guides_tool(name: str) -> None:
    expected, ranges = exported(name), observed_ranges(name)
    for module in cases()[name]["fa_layers_exported"]:
        for role in "qkv":
            low, high = (ranges[f"{module}.fa_{role}.{end}"].float() for end in ("min", "max"))
            dtype = expected[f"{module}.fa_{role}.scale"].dtype
            for leaf, found in quantize_heads(role, low, high, dtype).items():
                golden = expected[f"{module}.{leaf}"]
                assert found.dtype == golden.dtype and found.shape == golden.shape
                # The tool divides in half precision; fa3 rounds once.
                close = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
                torch.testing.assert_close(found, golden, rtol=close, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(ranges=st.lists(st.tuples(ends, ends).map(sorted), min_size=1, max_size=5))
def test_each_head_has_one_scale_and_offset_0(dtype: torch.dtype, ranges: list[list[float]]) -> None:
    low, high = torch.tensor(ranges).T
    made = quantize_heads("k", low, high, dtype)
    assert list(made) == ["fa_k.scale", "fa_k.offset"]
    scale, offset = made.values()
    assert scale.dtype == dtype and offset.dtype == torch.int8
    assert scale.shape == offset.shape == (len(ranges), 1)
    assert not offset.any()
    assert (scale > 0).all()
    for found, (lowest, highest) in zip(scale[:, 0].double().tolist(), ranges):
        expected = max(abs(lowest), abs(highest)) / 127
        assert found == pytest.approx(expected, rel=torch.finfo(dtype).eps, abs=2**-23)
