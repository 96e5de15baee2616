"""How much an attention module's output suffers from int8 q, k and v: fa_amp's score `error`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from fa3cli.calibration.parameters import Range
from fa3cli.calibration.recorded_call import RecordedCall
from fa3cli.numerics.affine import fake_quantize, symmetric_scale

__all__ = ["int8_states", "signal_to_noise"]


def int8_states(ranges: Mapping[str, Range]) -> Callable[[Tensor, str], Tensor]:
    """Return a transform that leaves of a role's states `[B, H, S, D]` what int8 does, by the heads' `ranges`, `[H]` each."""
    scales = {role: symmetric_scale(low, high)[:, None, None] for role, (low, high) in ranges.items()}

    def transform(states: Tensor, role: str) -> Tensor:
        return fake_quantize(states.float(), scales[role].to(states.device)).to(states.dtype)

    return transform


def signal_to_noise(call: RecordedCall, ranges: Mapping[str, Range]) -> float:
    """Return the SNR of a patched attention module's output in dB, on a call of it that was recorded.

    `ranges` are those of the heads by role, `[H]` each. The module runs again, its states as int8 leaves them.
    """
    quantizer = call.module.fa_quantizer
    exact = call.again()
    quantizer.transform = int8_states(ranges)
    try:
        error = call.again() - exact
    finally:
        quantizer.transform = None
    signal, noise = exact.square().sum().item(), error.square().sum().item()
    return 10 * math.log10(signal / noise) if noise and signal else math.inf
