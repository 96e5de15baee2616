"""A module's call, kept to be repeated when something about the module has changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, MutableMapping
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

    @property
    def outputs(self) -> list[Tensor]:
        """All float tensors that the module returned, as they are."""
        return _floats(self._call[2])

    @property
    def arguments(self) -> list[Any]:
        """The arguments, those with names last."""
        positional, named, _ = self._call
        return [*positional, *named.values()]

    @torch.no_grad()
    def again(self, each: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Return what the module returns now to the same arguments, what `each` makes of their tensors.

        Containers among them are copies: a layer may leave something in one for the layers behind it.
        """
        return _first(self._repeated(each))

    @torch.no_grad()
    def outputs_again(self, each: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> list[Tensor]:
        """Return all float tensors that the module returns now, as `again` does the first."""
        return _floats(self._repeated(each))

    def _repeated(self, each: Callable[[Tensor], Tensor]) -> Any:
        positional, named, _ = self._call
        return self.module(*_copied(positional, each), **_copied(named, each))

    def _record(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if self._call is None:
            self._call = positional, named, output


def _copied(value: Any, each: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of tuples, lists and mappings of whatever class, down to what else they hold."""
    if isinstance(value, Tensor):
        return each(value)
    if type(value) in (tuple, list):
        return type(value)(_copied(item, each) for item in value)
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)
        for key, item in value.items():
            copied[key] = _copied(item, each)
        return copied
    return value


def _first(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).cpu().double()


def _floats(output: Any) -> list[Tensor]:
    several = output if isinstance(output, tuple) else (output,)
    return [each for each in several if isinstance(each, Tensor) and each.is_floating_point()]
