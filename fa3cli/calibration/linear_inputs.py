"""Observes the inputs of linears, and fake-quantizes them if calibration runs on quantized inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from torch import Tensor, nn

from fa3cli.numerics.affine import fake_quantize
from fa3cli.observers import Observer, RangeObserver
from fa3cli.quantization.reference_linear import input_parameters
from fa3cli.samples.masking import real_rows

__all__ = ["FakeQuantizedInputs", "LinearInputs"]

AnyObserver = TypeVar("AnyObserver", bound=Observer)


@dataclass(frozen=True)
class _Seen(Generic[AnyObserver]):
    """The last input, its observer before and after it, and the input that the linear got."""

    values: Tensor
    before: AnyObserver
    after: AnyObserver
    passed: Tensor


class LinearInputs(Generic[AnyObserver]):
    """An observer on each linear's input, within the `with` block.

    Linears that get the same tensor and have equal observers (q, k and v; gate and up) share the work.
    """

    def __init__(self, linears: Mapping[str, nn.Module], observers: Mapping[str, AnyObserver]) -> None:
        self.observers = dict(observers)
        self.mask: Tensor | None = None
        self._linears = linears
        self._seen: _Seen[AnyObserver] | None = None

    def __enter__(self) -> LinearInputs[AnyObserver]:
        self._hooks = [self._linears[name].register_forward_pre_hook(self._hook(name)) for name in self.observers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._seen = None

    def see(self, mask: Tensor | None, timestep: float | None = None) -> None:
        """Announce the next sample; `mask [B, S]` is True for tokens that are not padding, None if there is no padding."""
        self.mask, self._earlier = mask, dict(self.observers)

    def discard_sample(self) -> None:
        """Discard the observations of the current sample, which will run again."""
        self.observers = dict(self._earlier)
        self._seen = None

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def observe(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            values, before = arguments[0], self.observers[name]
            if values.numel() == 0:  # an expert that got none of this sample's tokens
                return arguments
            # Identity, not equality: q, k and v get the same tensor object, and their observers are one object.
            seen = self._seen
            if seen is None or values is not seen.values or before is not seen.before:
                after = self._observed(before, values)
                seen = self._seen = _Seen(values, before, after, self._passed(values, after))
            self.observers[name] = seen.after
            return (seen.passed, *arguments[1:])

        return observe

    def _observed(self, before: AnyObserver, values: Tensor) -> AnyObserver:
        real = real_rows(values, self.mask)
        return before.updated(real) if real.numel() else before

    def _passed(self, values: Tensor, after: AnyObserver) -> Tensor:
        """Return the input that the linear computes with."""
        return values


class FakeQuantizedInputs(LinearInputs[RangeObserver]):
    """Like LinearInputs, but a linear computes with int8's error in its input, for the range known so far."""

    def _passed(self, values: Tensor, after: RangeObserver) -> Tensor:
        low, high = (bound.to(values.device) for bound in after.bounds())
        return fake_quantize(values, *input_parameters(low, high, values.dtype))
