"""Watches one decoder layer while the samples pass, and turns what was seen into quantization parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.fa_quantizer import FAQuantizer
from fa3cli.numerics.fallback_score import fallback_score
from fa3cli.observers.head_range import HeadRange
from fa3cli.observers.input_range import InputRange
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.linear import quantize_linear

__all__ = ["LayerObservation"]


class LayerObservation:
    """Observers on some linears and attention modules; attached within the `with` block.

    The first sample also gives each attention module its `scores` for fa_amp, if `score` asks for it.
    """

    def __init__(
        self, linears: Mapping[str, nn.Linear], attentions: Mapping[str, FAQuantizer], *, score: bool
    ) -> None:
        self.inputs = {name: InputRange() for name in linears}
        self.heads = {name: {role: HeadRange(role) for role in "qkv"} for name in attentions}
        self.scores: dict[str, float] = {}
        self._linears, self._attentions, self._score = dict(linears), dict(attentions), score
        self._last_input: Tensor | None = None
        self._last_bounds: Tensor | None = None

    def __enter__(self) -> LayerObservation:
        self._hooks = [
            linear.register_forward_pre_hook(self._input_hook(self.inputs[name]))
            for name, linear in self._linears.items()
        ]
        for name, quantizer in self._attentions.items():
            quantizer.transform = self._states_hook(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        for quantizer in self._attentions.values():
            quantizer.transform = None
        self._last_input = self._last_bounds = None

    def linear_tensors(self, name: str, model_dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the W8A8 tensors of a linear; raises InvalidInputError where its input was never or badly seen."""
        observed = self.inputs[name]
        if observed.tokens == 0:
            raise InvalidInputError(
                f"{name}: no calibration sample reached it, so its input has no range",
                hint=f"add calibration data, or leave it float: --disable-names {name}",
            )
        low, high = observed.bounds()
        _require_finite(f"the input of {name}", low, high)
        linear = self._linears[name]
        return quantize_linear(linear.weight, linear.bias, low, high, model_dtype)

    def attention_tensors(self, model_dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
        """Return the FA3 tensors of each attention module.

        A cross-attention that no sample used has none; where that is so of all, their quantizers are not called.
        """
        seen = {
            name: roles
            for name, roles in self.heads.items()
            if any(observed.tokens for observed in roles.values())
        }
        if self.heads and not seen:
            raise UnsupportedError(
                f"{', '.join(self.heads)}: no q, k or v ever went through its fa_quantizer",
                hint="the model does not run the attention class that was patched: see fa3 patch --list",
            )
        return {name: self._head_tensors(name, roles, model_dtype) for name, roles in seen.items()}

    def _head_tensors(
        self, name: str, roles: dict[str, HeadRange], model_dtype: torch.dtype
    ) -> dict[str, Tensor]:
        tensors = {}
        for role, observed in roles.items():
            if observed.tokens == 0:
                raise UnsupportedError(f"{name}: its {role} states never went through its fa_quantizer")
            low, high = observed.bounds()
            _require_finite(f"the {role} states of {name}", low, high)
            tensors.update(quantize_heads(role, low, high, model_dtype))
        return tensors

    def _input_hook(self, observed: InputRange) -> Any:
        def observe(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            values = args[0]
            if values.numel() == 0:  # an expert that got none of this sample's tokens
                return
            if values is not self._last_input:  # q, k, v and gate, up share theirs
                self._last_input, self._last_bounds = values, torch.stack(values.aminmax()).float()
            observed.update(self._last_bounds, tokens=values.numel() // values.shape[-1])

        return observe

    def _states_hook(self, name: str) -> Any:
        def observe(states: Tensor, role: str) -> Tensor:
            observed = self.heads[name][role]
            if self._score and observed.tokens == 0:
                self.scores[name] = min(self.scores.get(name, 1.0), fallback_score(states))
            observed.update(states)
            return states

        return observe


def _require_finite(what: str, low: Tensor, high: Tensor) -> None:
    if not (low.isfinite().all() and high.isfinite().all()):
        raise InvalidInputError(
            f"{what} is not finite: the float model itself overflows or computes NaN there",
            hint="check the weights, or use a wider --dtype",
        )
