"""W8A8 dynamic: weights rounded by their rows' scales, and the scales that tokens get at run time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa3cli.numerics.affine import EPS
from fa3cli.quantization.dynamic_linear import dynamic_linear_layout, quantize_dynamic_linear, token_scales

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**32))
def test_weights_are_rounded_within_half_a_step(dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(5, 24, generator=generator) * torch.rand(5, 1, generator=generator)).to(dtype)
    made = quantize_dynamic_linear(weight, dtype)
    scale = made["weight_scale"].double()
    # With a scale that was rounded down (subnormal ones by more), the largest weights saturate.
    limits = torch.finfo(dtype)
    bound = scale * (0.5 + 127 * limits.eps) * 1.001 + 127 * limits.tiny * limits.eps
    assert ((made["weight"] * scale - weight.double()).abs() <= bound).all()
    assert made["weight"].abs().max() <= 127 and not made["weight_offset"].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layout_equals_that_of_the_tensors(dtype: torch.dtype) -> None:
    made, layout = quantize_dynamic_linear(torch.randn(5, 24), dtype), dynamic_linear_layout((5, 24), dtype)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in made.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in layout.items()
    }
    assert all(tensor.is_meta for tensor in layout.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_token_has_the_scale_of_its_largest_magnitude(dtype: torch.dtype) -> None:
    states = torch.tensor([[[1.0, -127.0], [254.0, 3.0]], [[0.0, 0.0], [-6.35e4, 6.0e4]]]).to(dtype)
    found = token_scales(states)
    assert found.dtype == torch.float32 and found.shape == (2, 2, 1)
    largest = states[1, 1, 0].abs().item() / 127
    assert found.flatten().tolist() == pytest.approx([1.0, 2.0, EPS, largest], rel=1e-6)
