"""A module's call, kept to be repeated when something about the module has changed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RecordedCall"]


class RecordedCall:
    """Arguments and output of a module's first call within the `with` block.

    Recorded at the end of the call, so that a forward may be suspended within it when the block begins.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._call: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None

    def __enter__(self) -> RecordedCall:
        self._hook = self.module.register_forward_hook(self._record, with_kwargs=True, prepend=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    @property
    def made(self) -> bool:
        """Whether there was a call."""
        return self._call is not None

    @property
    def output(self) -> Tensor:
        """What the module returned, of several outputs the first, in float64 on the CPU: not every device has it."""
        return _first(self._call[2])

    @torch.no_grad()
    def again(self) -> Tensor:
        """Return what the module returns to the same arguments now."""
        positional, named, _ = self._call
        return _first(self.module(*positional, **named))

    def _record(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if self._call is None:
            self._call = positional, named, output


def _first(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).cpu().double()
