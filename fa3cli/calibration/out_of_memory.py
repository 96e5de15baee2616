"""What a run does when its device has no memory left: less at a time, and the rest on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from fa3cli.calibration.devices import free_memory
from fa3cli.calibration.moving import CPU, moved
from fa3cli.errors import MissingCapabilityError, brief

__all__ = ["PatientLayers", "is_out_of_memory", "memory_errors", "or_on_cpu"]

_logger = logging.getLogger("fa3cli")
Result = TypeVar("Result")


class PatientLayers:
    """Decoder layers whose calls survive a lack of memory on `device`, within the `with` block.

    Such a call is made again when torch has given back what it keeps, then on the CPU; from then on the outputs of
    layers wait there for the next one. `again` is called before, to forget what the failed call was seen to do.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self.again: Callable[[], None] = lambda: None
        self._layers, self._device, self._short = list(layers), device, False
        self._undo = ExitStack()

    def __enter__(self) -> PatientLayers:
        for layer in self._layers if self._device != CPU else ():
            self._undo.callback(_restore, layer, vars(layer).get("forward"))
            layer.forward = partial(self._call, layer, layer.forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _call(self, layer: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        call = partial(self._on, self._device, forward, arguments, named)
        done, output = _tried(call)
        if not done:
            self._prepare_again()
            done, output = _tried(call)
        if not done:
            self._prepare_again()
            if not self._short:
                _logger.warning(
                    "out of memory on %s: samples that don't fit go through layers on the CPU, slowly, and all "
                    "of them wait there",
                    self._device,
                )
            self._short = True
            layer.to(CPU)
            try:
                output = self._on(CPU, forward, arguments, named)
            finally:
                layer.to(self._device)
        last = layer is self._layers[-1]
        return moved(output, CPU if self._short and not last else self._device)

    def _prepare_again(self) -> None:
        self.again()
        free_memory(self._device)

    def _on(
        self,
        device: torch.device,
        forward: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        return forward(*moved(arguments, device), **moved(named, device))


def or_on_cpu(work: Callable[..., Result], *arguments: Any) -> Result:
    """Return what `work` returns, from arguments on the CPU if their device has too little memory for it."""
    done, result = _tried(partial(work, *arguments))
    if done:
        return result
    _logger.warning("out of memory: %s is done on the CPU", work.__name__)
    return work(*moved(arguments, CPU))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out: torch's own class, or what backends say in words."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn what says that memory ran out, here or on the device, into a MissingCapabilityError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MissingCapabilityError(
            f"not enough memory, here or on {device} ({brief(error)})",
            hint="take fewer samples or shorter ones (--samples, --max-length; of a pipeline smaller --height, --width and "
            "--frames), or --device cpu; fa3 quantize --plan says what is needed",
        ) from error


# Of torch's allocators; the last one is CANN's (EL0004), where a kernel finds no memory for itself.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "Failed to allocate memory")


def _restore(layer: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


def _tried(work: Callable[[], Result]) -> tuple[bool, Result | None]:
    """Call `work` and tell whether memory sufficed; the failed call's tensors are gone when this returns."""
    try:
        return True, work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False, None
