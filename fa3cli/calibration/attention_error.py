"""Measures how much int8 q, k and v change an attention module's output: fa_amp's score `error`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from fa3cli.calibration.parameters import Range
from fa3cli.fa_quantizer import quantizer_of
from fa3cli.numerics.affine import fake_quantize, symmetric_scale
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["int8_states", "signal_to_noise"]


def int8_states(ranges: Mapping[str, Range]) -> Callable[[Tensor, str], Tensor]:
    """Return a transform that adds int8's error to a role's states `[B, H, S, D]`; `ranges` are per head, `[H]` each."""
    # [H] -> [H, 1, 1], for states [B, H, S, D].
    scales = {role: symmetric_scale(low, high)[:, None, None] for role, (low, high) in ranges.items()}

    def transform(states: Tensor, role: str) -> Tensor:
        # Ranges are on the CPU, states where the layer runs: there, too, after the device ran out of memory.
        return fake_quantize(states.float(), scales[role].to(states.device)).to(states.dtype)

    return transform


def signal_to_noise(call: RecordedCall, ranges: Mapping[str, Range]) -> float:
    """Return the SNR in dB of a patched attention module's output on a recorded call.

    `ranges` are per role and head, `[H]` each. The module runs again with int8's error in its states.
    """
    quantizer = quantizer_of(call.module)
    exact = call.repeat()
    quantizer.transform = int8_states(ranges)
    try:
        error = call.repeat() - exact
    finally:
        quantizer.transform = None
    signal, noise = exact.square().sum().item(), error.square().sum().item()
    return 10 * math.log10(signal / noise) if noise and signal else math.inf
