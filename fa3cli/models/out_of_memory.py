"""Handles a device without free memory: frees the cache and repeats the call, then computes on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from fa3cli.errors import MissingCapabilityError, brief
from fa3cli.models.devices import free_memory
from fa3cli.models.tensor_tree import CPU, moved

__all__ = ["CpuFallback", "is_out_of_memory", "memory_errors", "with_cpu_retry"]

_logger = logging.getLogger("fa3cli")
Result = TypeVar("Result")


class CpuFallback:
    """Repeats calls of decoder layers that fail for lack of memory on `device`, within the `with` block.

    A failed call is repeated after torch's cache was freed, then on the CPU; from then on the outputs of layers are kept
    on the CPU. Before a repetition, `discard_sample` is called, to discard the observations of the failed call.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        self.discard_sample: Callable[[], None] = lambda: None
        self._layers, self._device, self._uses_cpu = list(layers), device, False
        self._undo = ExitStack()

    def __enter__(self) -> CpuFallback:
        # On the CPU there is no other device to fall back to.
        for layer in self._layers if self._device != CPU else ():
            # None if forward is the class's own: then _restore deletes the attribute.
            self._undo.callback(_restore, layer, vars(layer).get("forward"))
            layer.forward = partial(self._call, layer, layer.forward)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _call(self, layer: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        call = partial(self._call_on, self._device, forward, arguments, named)
        outputs = _attempt(call)
        if not outputs:
            self._prepare_repetition()
            outputs = _attempt(call)
        if not outputs:
            self._prepare_repetition()
            if not self._uses_cpu:
                _logger.warning(
                    "out of memory on %s: samples that don't fit run through layers on the CPU, slowly, and all "
                    "samples are kept on the CPU between layers",
                    self._device,
                )
            self._uses_cpu = True
            layer.to(CPU)
            try:
                outputs = [self._call_on(CPU, forward, arguments, named)]
            finally:
                # Moved back after an error, too: all other code expects the layer on the device.
                layer.to(self._device)
        # After the last layer, the model's own code continues on the device.
        last = layer is self._layers[-1]
        return moved(outputs.pop(), CPU if self._uses_cpu and not last else self._device)

    def _prepare_repetition(self) -> None:
        self.discard_sample()
        free_memory(self._device)

    def _call_on(
        self, device: torch.device, forward: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        return forward(*moved(arguments, device), **moved(named, device))


def with_cpu_retry(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call `work`, and again with arguments on the CPU if their device has too little memory; return its result."""
    if results := _attempt(partial(work, *arguments)):
        return results[0]
    _logger.warning("out of memory: %s is done on the CPU", work.__name__)
    return work(*moved(arguments, CPU))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means out of memory, by its class or by the words that backends use."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error, of the machine or the device, into a MissingCapabilityError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MissingCapabilityError(
            f"not enough memory, here or on {device} ({brief(error)})",
            hint="use fewer or shorter samples (--samples, --max-length; for a pipeline, smaller --height, --width and "
            "--frames), or --device cpu; fa3 quantize --plan prints the needed memory",
        ) from error


# Messages of torch's allocators; the last one is CANN's (EL0004), when a kernel gets no memory.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "Failed to allocate memory")


def _restore(layer: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


def _attempt(work: Callable[[], Result]) -> list[Result]:
    """Return the result of `work` in a list, empty if memory did not suffice; its traceback, which holds tensors, is freed."""
    try:
        # In a list: None may be a result, too.
        return [work()]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return []
