"""Records a module's call, to repeat it after the module has changed."""

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

    The call is recorded when it ends, so a forward may be suspended inside it when the block begins.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._call: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None

    def __enter__(self) -> RecordedCall:
        # prepend: the engine's hook on the last layer suspends the forward, so a hook after it would run too late.
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

    def _recorded(self) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        if self._call is None:
            raise ValueError("the module was not called within the block")
        return self._call

    @property
    def output(self) -> Tensor:
        """The module's first output, in float64 on the CPU, since some devices lack float64."""
        return _first(self._recorded()[2])

    @property
    def outputs(self) -> list[Tensor]:
        """All float tensors among the module's outputs, unchanged."""
        return _floats(self._recorded()[2])

    @property
    def arguments(self) -> list[Any]:
        """The positional arguments, then the named ones."""
        positional, named, _ = self._recorded()
        return [*positional, *named.values()]

    @torch.no_grad()
    def repeat(self, prepare: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Call the module again with the same arguments, `prepare` applied to their tensors; return its first output.

        Containers among the arguments are copied: a layer may store something in one for later layers.
        """
        return _first(self._repeated(prepare))

    @torch.no_grad()
    def repeat_outputs(self, prepare: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> list[Tensor]:
        """Call the module again like `repeat`, and return all float tensors among its outputs."""
        return _floats(self._repeated(prepare))

    def _repeated(self, prepare: Callable[[Tensor], Tensor]) -> Any:
        positional, named, _ = self._recorded()
        return self.module(*_copied(positional, prepare), **_copied(named, prepare))

    def _record(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if self._call is None:
            self._call = positional, named, output


def _copied(value: Any, prepare: Callable[[Tensor], Tensor]) -> Any:
    """Return a deep copy of tuples, lists and mappings of any class; other values are not copied."""
    if isinstance(value, Tensor):
        return prepare(value)
    if type(value) in (tuple, list):
        return type(value)(_copied(item, prepare) for item in value)
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)
        for key, item in value.items():
            copied[key] = _copied(item, prepare)
        return copied
    return value


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first.cpu().double()


def _floats(output: Any) -> list[Tensor]:
    several = output if isinstance(output, tuple) else (output,)
    return [tensor for tensor in several if isinstance(tensor, Tensor) and tensor.is_floating_point()]
