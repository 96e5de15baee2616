"""Watches the transformers of a pipeline while it samples a prompt, and writes what they are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli.calibration.moving import each_tensor
from fa3cli.calibration.tree_file import write_tree
from fa3cli.errors import UnsupportedError

__all__ = ["StepRecorder", "require_timesteps"]


class StepRecorder:
    """Within the block the calls of `transformers`, by component, are written, a file for each step that has one.

    A step lasts as long as the timestep of the calls, its first value. `begins` is called at each, and `steps` counts them.
    Raises UnsupportedError for an argument that can't be written, and where a step takes two transformers.
    """

    def __init__(
        self,
        transformers: Mapping[str, nn.Module],
        files: Mapping[int, Path],
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        self.steps = 0
        self._transformers, self._files, self._begins = transformers, files, begins
        self._timestep: float | None = None
        self._component = ""
        self._calls: list[dict[str, Any]] = []

    def __enter__(self) -> StepRecorder:
        self._hooks = [
            module.register_forward_pre_hook(_Hook(self, name, module), with_kwargs=True)
            for name, module in self._transformers.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        if error is None:
            self._write()

    def called(self, component: str, arguments: dict[str, Any]) -> None:
        """Take note of a call that is about to be made."""
        timestep = _first_value(arguments["timestep"])
        if timestep != self._timestep:
            self._write()
            self._begins()
            self.steps += 1
            self._timestep, self._component = timestep, component
        if component != self._component:
            raise UnsupportedError(
                f"{self._component} and {component} are both called at timestep {timestep:g}"
            )
        if self.steps - 1 in self._files:
            self._calls.append({"timestep": timestep, "arguments": each_tensor(_copied, arguments)})

    def _write(self) -> None:
        """Write the step that is over, if it is wanted."""
        if not self._calls:
            return
        calls, self._calls = self._calls, []
        try:
            write_tree(self._files[self.steps - 1], {"component": self._component, "calls": calls})
        except TypeError as error:
            raise UnsupportedError(
                f"{self._component}: what it is called with can't be recorded; {error}"
            ) from error


class _Hook:
    """A hook before the forward of one transformer; it knows its arguments by name."""

    def __init__(self, recorder: StepRecorder, component: str, module: nn.Module) -> None:
        self._recorder, self._component = recorder, component
        self._signature = inspect.signature(module.forward)

    def __call__(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = dict(self._signature.bind(*positional, **named).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        self._recorder.called(self._component, arguments)


def require_timesteps(transformers: Mapping[str, nn.Module]) -> None:
    """Raise UnsupportedError for a transformer that isn't told the timestep: its steps couldn't be told apart."""
    for name, module in transformers.items():
        if "timestep" not in inspect.signature(module.forward).parameters:
            raise UnsupportedError(f"{name}: {type(module).__name__} takes no timestep")


def _first_value(timestep: Any) -> float:
    return float(timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep)


def _copied(tensor: Tensor) -> Tensor:
    """Return a dense copy on the CPU: the pipeline may go on to write into the tensor."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
