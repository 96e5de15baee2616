"""Observes one decoder layer while samples run through it, and returns the ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from fa3cli.calibration.attention_error import signal_to_noise
from fa3cli.calibration.linear_inputs import FakeQuantizedInputs, LinearInputs
from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.errors import InvalidInputError, UnsupportedError
from fa3cli.fa_quantizer import quantizer_of
from fa3cli.numerics.fallback_score import fallback_score
from fa3cli.observers import RangeObserver
from fa3cli.observers.channel_peak import ChannelPeak
from fa3cli.observers.head_range import HeadRange
from fa3cli.quantization.fallback import fused_groups
from fa3cli.quantization.reference_linear import fake_quantize_weight
from fa3cli.quantization.settings import QuantSettings
from fa3cli.samples.masking import real_states
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["LayerObservation"]


class LayerObservation:
    """Observers on the linears and attention modules of a layer, within the `with` block.

    With the reference's numerics, the linears run quantized within the block. `see` announces the next sample; fa_amp's
    scores of the attention modules come from the first sample. For samples with a timestep, the largest states per
    timestep are kept.
    """

    def __init__(
        self,
        observers: Mapping[str, RangeObserver],
        linears: Mapping[str, nn.Linear],
        attentions: Mapping[str, nn.Module],
        settings: QuantSettings,
    ) -> None:
        kind: type[LinearInputs[RangeObserver]] = FakeQuantizedInputs if settings.reference else LinearInputs
        self.inputs = kind(linears, observers)
        self.heads = {name: {role: HeadRange() for role in "qkv"} for name in attentions}
        self.channels = {name: {role: ChannelPeak() for role in "kv"} for name in attentions}
        self._linears, self._attentions, self._settings = linears, attentions, settings
        self._scores: dict[str, float] = {}
        self._timestep: float | None = None
        self._peaks: dict[float, dict[str, float]] = {}
        self._calls: dict[str, RecordedCall] = {}

    def __enter__(self) -> LayerObservation:
        with ExitStack() as undo:  # an error half-way, such as out of memory, undoes the earlier steps
            if self._settings.reference:
                weights = {name: linear.get_parameter("weight") for name, linear in self._linears.items()}
                undo.callback(self._restore, weights)
                for linear in self._linears.values():
                    weight = fake_quantize_weight(linear.weight.detach(), mm_tensor=self._settings.mm_tensor)
                    linear.weight = nn.Parameter(weight, requires_grad=False)
            undo.enter_context(self.inputs)
            for name, module in self._attentions.items():
                quantizer = quantizer_of(module)
                quantizer.transform = self._states_hook(name)
                undo.callback(setattr, quantizer, "transform", None)
                if self._settings.fa_amp and self._settings.fa_score == "error":
                    self._calls[name] = undo.enter_context(RecordedCall(module))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def see(self, mask: Tensor | None, timestep: float | None = None) -> None:
        """Announce the next sample; `mask [B, S]` is True for tokens that are not padding, None if there is no padding."""
        self.inputs.see(mask)
        self._timestep = timestep
        self._earlier = _copied(self.heads), _copied(self.channels)

    def discard_sample(self) -> None:
        """Discard the observations of the current sample, which will run again."""
        self.inputs.discard_sample()
        self.heads, self.channels = map(_copied, self._earlier)

    def parameters(self, name: str, ranks: Ranks = ALONE) -> LayerParameters:
        """Return the parameters from all ranks' samples.

        Raises InvalidInputError or UnsupportedError if a range is missing or not finite. Linears that no
        sample ran, such as those of a cross-attention, are omitted with a warning.
        """
        linears: dict[str, Range | None] = dict.fromkeys(
            name for name in self._linears if name not in self.inputs.observers
        )
        warnings: list[str] = []
        merged = ranks.merged(self.inputs.observers)
        unreached = tuple(linear for linear, observed in merged.items() if not observed.tokens)
        for linear, observed in merged.items():
            if linear not in unreached:
                linears[linear] = found = self._input_range(linear, observed)
                warnings += _width_warnings(linear, *found)
        for group in fused_groups(merged):
            # Engines fuse a group into one linear, so it cannot be float in part.
            if len(split := sorted(group & set(unreached))) not in (0, len(group)):
                raise InvalidInputError(
                    f"{split[0]}: no calibration sample reached it, so its input has no range",
                    hint=f"add calibration data, or leave it float: --disable-names {split[0]}",
                )
        warnings += [f"{linear}: the samples did not run it, so it stays float" for linear in unreached]
        heads = {module: ranks.merged(roles) for module, roles in self.heads.items()}
        attentions = {module: dict(self._head_ranges(module, roles)) for module, roles in _used_modules(heads).items()}
        scores = self._scores | {
            module: signal_to_noise(call, attentions[module])
            for module, call in self._calls.items()
            if module in attentions and call.made
        }
        # fa_amp uses the first sample's scores; the first sample belongs to the leading rank.
        return LayerParameters(
            name,
            linears,
            attentions,
            {module: _peaks(ranks.merged(roles)) for module, roles in self.channels.items() if module in attentions},
            ranks.first(scores),
            unreached=unreached,
            warnings=tuple(warnings),
            timesteps=tuple(_by_timestep(ranks.gather(self._peaks))),
        )

    def _input_range(self, name: str, observed: RangeObserver) -> Range:
        low, high = observed.bounds()
        _require_finite(f"the input of {name}", low, high)
        return low.cpu(), high.cpu()

    def _head_ranges(self, name: str, roles: dict[str, HeadRange]) -> Iterator[tuple[str, Range]]:
        for role, observed in roles.items():
            # Some of q, k, v have no tokens: these states bypass the quantizer. In an unused module, all have none.
            if observed.tokens == 0:
                raise UnsupportedError(f"{name}: its {role} states never went through its fa_quantizer")
            low, high = observed.bounds()
            _require_finite(f"the {role} states of {name}", low, high, replayed=self._timestep is not None)
            yield role, (low, high)

    def _states_hook(self, name: str) -> Callable[[Tensor, str], Tensor]:
        def observe(states: Tensor, role: str) -> Tensor:
            before, real = self.heads[name][role], real_states(states, self.inputs.mask)
            if real.numel():
                # Like the reference: the score of the first sample is the least of the scores of q, k and v.
                if self._settings.fa_amp and self._settings.fa_score == "reference" and before.tokens == 0:
                    self._scores[name] = min(self._scores.get(name, 1.0), fallback_score(real))
                # Observed without the earlier samples: the timestep needs the peak of this sample.
                seen = HeadRange().updated(real, role)
                self.heads[name][role] = before.merged(seen)
                if self._timestep is None:
                    if role in self.channels[name]:
                        self.channels[name][role] = self.channels[name][role].updated(real)
                else:
                    peaks = self._peaks.setdefault(self._timestep, {})
                    peaks[role] = max(peaks.get(role, 0.0), seen.peak)
            return states

        return observe

    def _restore(self, weights: Mapping[str, nn.Parameter]) -> None:
        for name, weight in weights.items():
            self._linears[name].weight = weight


def _copied(observers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a copy of the dicts; the observers themselves are immutable."""
    return {name: dict(roles) for name, roles in observers.items()}


def _peaks(roles: Mapping[str, ChannelPeak]) -> dict[str, Tensor]:
    return {role: observed.peak for role, observed in roles.items() if observed.tokens}


def _by_timestep(peaks: Sequence[Mapping[float, Mapping[str, float]]]) -> Iterator[dict[str, float]]:
    """Yield the timesteps in sampling order, with the largest peak per role over all ranks."""
    for timestep in sorted({timestep for rank_peaks in peaks for timestep in rank_peaks}, reverse=True):
        roles = [rank_peaks.get(timestep, {}) for rank_peaks in peaks]
        yield {"timestep": timestep} | {role: max(rank_peaks.get(role, 0.0) for rank_peaks in roles) for role in "qkv"}


def _used_modules(heads: dict[str, dict[str, HeadRange]]) -> dict[str, dict[str, HeadRange]]:
    seen = {name: roles for name, roles in heads.items() if any(observed.tokens for observed in roles.values())}
    if heads and not seen:
        raise UnsupportedError(
            f"{', '.join(heads)}: no q, k or v ever went through its fa_quantizer",
            hint="the model does not run the attention class that was patched: see fa3 patch --list",
        )
    return seen


def _width_warnings(name: str, low: Tensor, high: Tensor) -> Iterator[str]:
    """Yield a warning if the width of the range overflows its dtype."""
    if (high - low).isinf().any():
        yield (
            f"the input of {name} ranges from {low.item():.4g} to {high.item():.4g}, wider than "
            f"{str(low.dtype).removeprefix('torch.')} reaches; its scale was computed in float32"
        )


def _require_finite(name: str, low: Tensor, high: Tensor, *, replayed: bool = False) -> None:
    if not (low.isfinite().all() and high.isfinite().all()):
        if replayed:
            raise UnsupportedError(
                f"{name} is not finite: the float model itself overflows there, or the block needs more than the "
                "output of the previous block, and a replay has only this output",
                hint="use a wider --dtype; a transformer with skip connections between blocks cannot be replayed",
            )
        raise InvalidInputError(
            f"{name} is not finite: the float model itself overflows or computes NaN there",
            hint="check the weights, or use a wider --dtype",
        )
