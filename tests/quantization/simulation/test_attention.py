"""Attention states are rounded as each engine rounds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.quantization.simulation.attention import simulate_attention
from tests.quantization.simulation.loading import load

HEADS, KV_HEADS, SIZE = 4, 2, 8


class Attention(nn.Module):
    """An attention module without rope, which passes its states through a quantizer."""

    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.k_proj, self.v_proj = (nn.Linear(16, KV_HEADS * SIZE) for _ in range(2))
        self.fa_quantizer, self.as_tuple = FAQuantizer(), as_tuple

    def forward(self, states: Tensor) -> Any:
        q = states.view(1, -1, HEADS, 4).transpose(1, 2).repeat(1, 1, 1, 2)
        k, v = (linear(states).view(1, -1, KV_HEADS, SIZE).transpose(1, 2) for linear in (self.k_proj, self.v_proj))
        q, k, v = (self.fa_quantizer.quant(part, role) for part, role in zip((q, k, v), "qkv"))
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (k, v))
        output = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return (output, None) if self.as_tuple else output


def simulated(tensors: dict[str, Tensor], **options: Any) -> Attention:
    torch.manual_seed(0)
    attention = Attention(**options)
    simulate_attention(attention, "self_attn", {f"self_attn.{name}": tuple(t.shape) for name, t in tensors.items()})
    load(attention, {**{name: value.detach() for name, value in attention.named_parameters()}, **tensors})
    return attention


def test_an_attention_without_scales_stays_float() -> None:
    attention = simulated({})
    assert attention.fa_quantizer.transform is None and not attention._buffers


# The values of e4m3: 4 bits of exponent, 3 of mantissa, one code for NaN.
E4M3 = torch.tensor(
    sorted(
        {m / 8 * 2.0**-6 for m in range(8)} | {(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)} - {480.0}
    )
)


@given(
    values=st.lists(st.floats(-600, 600, width=32), min_size=1, max_size=40), scale=st.sampled_from([0.25, 1.0, 2.0])
)
def test_fp8_with_one_scale_rounds_to_the_nearest_value_of_e4m3(values: list[float], scale: float) -> None:
    one = torch.tensor([scale])
    attention = simulated({"q_scale": one, "k_scale": one, "v_scale": one})
    states = torch.tensor(values)[None, None, :, None].expand(1, KV_HEADS, -1, SIZE)
    found = attention.fa_quantizer.quant(states, "k")[0, 0, :, 0]
    candidates = torch.cat((E4M3, -E4M3)) * scale
    nearest = (torch.tensor(values)[:, None] - candidates).abs().amin(1)
    torch.testing.assert_close((found - torch.tensor(values)).abs(), nearest, rtol=1e-6, atol=0)


def test_fp8_per_head_shares_the_largest_scale_of_q_in_a_group() -> None:
    scales = {"q": [0.1, 0.4, 1.0, 0.2], "k": [0.3, 0.7], "v": [0.2, 0.9]}
    attention = simulated({f"{role}_scale": torch.tensor(s)[:, None, None] for role, s in scales.items()})
    used = {**scales, "q": [0.4, 0.4, 1.0, 1.0]}
    for role, heads in used.items():
        states = torch.randn(2, len(heads), 5, SIZE) * 20
        found = attention.fa_quantizer.quant(states, role)
        for head, scale in enumerate(heads):
            expected = (states[:, head] / scale).to(torch.float8_e4m3fn).float() * scale
            torch.testing.assert_close(found[:, head], expected)


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("positions", [1, 2, 7, 8])
def test_an_int8_cache_is_read_where_tokens_are_decoded(positions: int, as_tuple: bool) -> None:
    """Of C8, the first half of a line is a prompt, whose attention reads float K and V."""
    scale = torch.rand(KV_HEADS * SIZE, generator=torch.Generator().manual_seed(1)) / 20 + 0.01
    tensors = {f"{role}_proj.kv_cache_scale": scale for role in "kv"}
    attention, states = simulated(tensors, as_tuple=as_tuple), torch.randn(1, positions, 16)
    found = attention(states)
    found, half = (found[0] if as_tuple else found), positions // 2

    plain = Attention()
    plain.load_state_dict({name: value for name, value in attention.state_dict().items() if "kv_cache" not in name})
    exact = plain(states)

    def round_per_channel(part: Tensor, role: str) -> Tensor:
        if role == "q":
            return part
        steps = scale.view(1, KV_HEADS, 1, SIZE)
        return (part / steps).round().clamp(-128, 127) * steps

    plain.fa_quantizer.transform = round_per_channel
    torch.testing.assert_close(found[:, :half], exact[:, :half])
    torch.testing.assert_close(found[:, half:], plain(states)[:, half:])
    assert not torch.equal(found[:, half:], exact[:, half:])
    assert attention.fa_quantizer.transform is None
