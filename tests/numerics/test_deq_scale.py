"""Tests that deq_scale is unpacked from both forms bit by bit."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.numerics.deq_scale import pack_deq_scale, unpack_deq_scale

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(values=st.lists(finite, min_size=1, max_size=8))
def test_unpacking_restores_the_packed_scale(dtype: torch.dtype, values: list[float]) -> None:
    scale = torch.tensor(values)
    found = unpack_deq_scale(pack_deq_scale(scale, dtype))
    assert found.dtype == torch.float32
    assert torch.equal(found.view(torch.int32), scale.view(torch.int32))  # tells -0.0 from 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(value=finite)
def test_the_packed_scale_is_the_sign_extended_bit_pattern(dtype: torch.dtype, value: float) -> None:
    packed = pack_deq_scale(torch.tensor([value]), dtype)
    assert packed.dtype == torch.int64
    assert packed.item() == struct.unpack("<i", struct.pack("<f", value))[0]


def test_bfloat16_models_keep_float32() -> None:
    scale = torch.tensor([0.1, 2.0])
    packed = pack_deq_scale(scale, torch.bfloat16)
    assert packed.dtype == torch.float32 and torch.equal(packed, scale)
