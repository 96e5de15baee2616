"""Observes the inputs of linears, and fake-quantizes them if calibration runs on quantized inputs."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from fa3cli.numerics.affine import fake_quantize
from fa3cli.observers import Observer
from fa3cli.quantization.reference_linear import input_parameters
from fa3cli.samples.masking import real_rows

__all__ = ["LinearInputs"]

AnyObserver = TypeVar("AnyObserver", bound=Observer)


class LinearInputs(Generic[AnyObserver]):
    """An observer on each linear's input, within the `with` block.

    Linears that get the same tensor and have equal observers (q, k and v; gate and up) share the work. With `fake`, a
    linear computes with int8's error in its input, in the range known so far.
    """

    def __init__(
        self, linears: Mapping[str, nn.Linear], observers: Mapping[str, AnyObserver], *, fake: bool = False
    ) -> None:
        self.observers = dict(observers)
        self.mask: Tensor | None = None
        self._linears, self._fake = linears, fake
        self._clear_cache()

    def __enter__(self) -> LinearInputs[AnyObserver]:
        self._hooks = [
            self._linears[name].register_forward_pre_hook(self._hook(name)) for name in self.observers
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        # The cache holds the last input, which may be large.
        self._clear_cache()

    def see(self, mask: Tensor | None, timestep: float | None = None) -> None:
        """Announce the next sample; `mask [B, S]` is True for tokens that are not padding, None if there is no padding."""
        self.mask, self._earlier = mask, dict(self.observers)

    def discard_sample(self) -> None:
        """Discard the observations of the current sample, which will run again."""
        self.observers = dict(self._earlier)
        self._clear_cache()

    def _clear_cache(self) -> None:
        self._values = self._before = self._after = self._passed = None

    def _hook(self, name: str) -> Any:
        def observe(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            values, before = arguments[0], self.observers[name]
            if values.numel() == 0:  # an expert that got none of this sample's tokens
                return None
            # Identity, not equality: q, k and v get the same tensor object, and their observers are one object.
            if values is not self._values or before is not self._before:
                self._values, self._before = values, before
                self._after = self._observed(before, values)
                # The range includes this sample: the reference quantizes sample i in the range of samples 1 to i.
                self._passed = self._quantized(values) if self._fake else values
            self.observers[name] = self._after
            return (self._passed, *arguments[1:]) if self._fake else None

        return observe

    def _observed(self, before: AnyObserver, values: Tensor) -> AnyObserver:
        real = real_rows(values, self.mask)
        return before.updated(real) if real.numel() else before

    def _quantized(self, values: Tensor) -> Tensor:
        # A histogram's bounds are on the CPU.
        low, high = (bound.to(values.device) for bound in self._after.bounds())
        return fake_quantize(values, *input_parameters(low, high, values.dtype))
