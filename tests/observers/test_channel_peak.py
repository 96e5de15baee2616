"""Tests that a channel's peak is the largest |value| of all samples, in any order and split."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fa3cli.observers.channel_peak import ChannelPeak
from tests.observers.test_head_range import some_samples


@given(samples=some_samples(), split=st.integers(0, 5))
def test_peaks_are_the_largest_values_of_all_samples(samples: list[Tensor], split: int) -> None:
    whole, parts = ChannelPeak(), [ChannelPeak(), ChannelPeak()]
    for number, states in enumerate(samples):
        whole = whole.updated(states)
        part = number >= split
        parts[part] = parts[part].updated(states)
    expected = torch.cat([states.abs().amax((0, 2))[None].float() for states in samples]).amax(0)
    merged = parts[1].merged(parts[0])
    assert torch.equal(whole.peak, expected) and torch.equal(merged.peak, expected)
    assert whole.peak.dtype == torch.float32
    assert whole.tokens == merged.tokens == sum(states.shape[0] * states.shape[2] for states in samples)


def test_without_samples_there_is_nothing() -> None:
    assert ChannelPeak().merged(ChannelPeak()).tokens == 0
