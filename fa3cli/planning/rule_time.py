"""Estimates how long AntiOutlier searches in a layer: measures a part of the weights and samples, and extrapolates."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fa3cli.calibration.smoothing_groups import groups_of, shared_heads
from fa3cli.models.layered_model import LayeredModel
from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.quantization.anti_outlier.group import Group, GroupData, Rule
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.settings import QuantSettings

__all__ = ["rule_seconds"]

_WEIGHTS = 1 << 21
_TOKENS, _FEW = 128, 16


def rule_seconds(model: LayeredModel, layer: str, settings: QuantSettings, tokens: Sequence[int]) -> float:
    """Return about how many seconds the search for a loaded layer's scales takes, given the samples' numbers of tokens."""
    if settings.anti_method == "none":
        return 0.0
    method = METHODS[settings.anti_method]
    kept = tokens[: method.keep if method.multiplies_all else min(method.keep, 1)]
    dtype = model.dtype if settings.reference else torch.float32
    searches = (_Search.of(model, group, method.rule, dtype) for group in groups_of(model, layer, method.groups))
    return sum(search.seconds(sum(kept)) for search in searches)


@dataclass(frozen=True)
class _Search:
    """A rule applied to every n-th row of a group's weights, which takes 1/n of the time; `share` is n."""

    rule: Rule
    part: GroupData
    share: int

    @classmethod
    def of(cls, model: LayeredModel, group: Group, rule: Rule, dtype: torch.dtype) -> _Search:
        full_weights = [model.tensor(f"{name}.weight").detach() for name in group.linears]
        rows = math.gcd(*map(len, full_weights))
        wanted = sum(weight.numel() for weight in full_weights) // _WEIGHTS
        # A power of 2 that divides the number of rows of all weights: rules may split the rows into heads.
        share = min(1 << max(wanted, 1).bit_length() - 1, rows & -rows)
        weights = [weight[::share].to(dtype).contiguous() for weight in full_weights]
        biases = [None if bias is None else bias[::share].to(dtype) for bias in map(model.bias, group.linears)]
        no_samples = ChannelStatistics(keep=1)
        return cls(rule, GroupData(no_samples, weights, biases, *shared_heads(model, group)), share)

    def seconds(self, tokens: int) -> float:
        """Return the seconds of the whole search with that many tokens; above a few tokens, the time grows linearly."""
        if tokens <= _TOKENS:
            return self.share * self._measure(tokens)
        few, most = self._measure(_FEW), self._measure(_TOKENS)
        return self.share * (few + max(0.0, most - few) * (tokens - _FEW) / (_TOKENS - _FEW))

    def _measure(self, tokens: int) -> float:
        noise = torch.randn(max(tokens, 1), self.part.weights[0].shape[1], dtype=self.part.weights[0].dtype)
        data = replace(self.part, inputs=self.part.inputs.updated(noise))
        return min(self._run_rule(data), self._run_rule(data))  # the first call is slower: caches are cold

    def _run_rule(self, data: GroupData) -> float:
        begin = time.perf_counter()
        self.rule(data)
        return time.perf_counter() - begin
