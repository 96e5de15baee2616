"""fa_amp's score `error`: signal to noise of an attention's output, against states that are rounded by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fa3cli.calibration.attention_error import signal_to_noise
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.samples.recorded_call import RecordedCall

Ranges = dict[str, tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Attention over the given states, with a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.fa_quantizer = FAQuantizer()

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        query, key, value = (
            self.fa_quantizer.quant(states, qkv=role) for states, role in zip((query, key, value), "qkv")
        )
        return torch.softmax(query @ key.transpose(2, 3), dim=-1) @ value, None


def random_states(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    return [(torch.randn(1, 2, 6, 4, generator=generator) * sizes).to(dtype) for _ in range(3)]


def ranges_of(states: list[Tensor]) -> Ranges:
    return {
        role: (role_states.amin((0, 2, 3)), role_states.amax((0, 2, 3))) for role, role_states in zip("qkv", states)
    }


def recorded(states: list[Tensor]) -> RecordedCall:
    attention = Attention()
    with RecordedCall(attention) as call:
        attention(*states)
    return call


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), narrowed=st.sampled_from([1.0, 0.5]))
def test_the_score_is_the_ratio_in_dB_with_each_head_rounded_in_its_range(seed: int, narrowed: float) -> None:
    states = random_states(seed)
    ranges = {role: (low * narrowed, high * narrowed) for role, (low, high) in ranges_of(states).items()}
    rounded = [torch.empty_like(role_states) for role_states in states]
    for role_states, by_hand, (low, high) in zip(states, rounded, ranges.values()):
        for head in range(2):
            step = max(-low[head].item(), high[head].item()) / 127
            by_hand[:, head] = (role_states[:, head] / step).round().clamp(-128, 127) * step
    exact, found = Attention()(*states)[0].double(), Attention()(*rounded)[0].double()
    expected = 10 * math.log10((exact**2).sum().item() / ((found - exact) ** 2).sum().item())
    assert signal_to_noise(recorded(states), ranges) == pytest.approx(expected, abs=0.01)


def test_a_wider_range_of_any_state_adds_noise() -> None:
    states = random_states(0)
    ranges = ranges_of(states)
    narrow = signal_to_noise(recorded(states), ranges)
    for role in "qkv":
        wide = {**ranges, role: tuple(end * 20 for end in ranges[role])}
        assert signal_to_noise(recorded(states), wide) < narrow


def test_states_that_int8_represents_exactly_have_no_noise() -> None:
    states = [torch.randint(-126, 127, (1, 2, 3, 4)).float() / 127 for _ in range(3)]
    ranges = {role: (-torch.ones(2), torch.ones(2)) for role in "qkv"}
    states = [(role_states * 127).round() * (torch.ones(()) / 127) for role_states in states]
    assert signal_to_noise(recorded(states), ranges) == math.inf


def test_a_zero_output_has_an_infinite_score() -> None:
    states = random_states(0)
    states[2].zero_()
    assert signal_to_noise(recorded(states), ranges_of(states)) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_rounded_in_float32(dtype: torch.dtype) -> None:
    states = random_states(0, dtype)
    usual = [role_states.float() for role_states in states]
    expected = signal_to_noise(recorded(usual), ranges_of(usual))
    assert signal_to_noise(recorded(states), ranges_of(usual)) == pytest.approx(expected, abs=3)


def test_the_transform_is_removed_after_measuring() -> None:
    call = recorded(random_states(0))
    quantizer = call.module.fa_quantizer
    signal_to_noise(call, ranges_of(random_states(0)))
    assert quantizer.transform is None
    wrong = {role: (torch.ones(5), torch.ones(5)) for role in "qkv"}  # heads that do not exist
    with pytest.raises(RuntimeError):
        signal_to_noise(call, wrong)
    assert quantizer.transform is None
