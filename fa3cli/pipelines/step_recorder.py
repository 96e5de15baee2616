"""Records the arguments of a pipeline's transformers while it samples a prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli.errors import UnsupportedError
from fa3cli.models.temporarily import temporarily
from fa3cli.models.tensor_tree import map_tensors
from fa3cli.models.tree_file import write_tree

__all__ = ["RecordingDone", "StepRecorder", "before_each_step", "require_timesteps"]


class StepRecorder:
    """Writes the calls of a pipeline's `transformers` (by component) within the block, one file per step in `files`.

    With `kept`, only the calls of that component are written. A step ends when the scheduler is called. `begins` is called
    at the start of each step. After the last step that has a file, the sampling and the block end. Raises UnsupportedError
    for an argument that cannot be written, a step that calls two transformers, and a scheduler whose number of steps is
    not `steps`.
    """

    def __init__(
        self,
        transformers: Mapping[str, nn.Module],
        scheduler: Any,
        steps: int,
        files: Mapping[int, Path],
        begins: Callable[[], None] = lambda: None,
        *,
        kept: str | None = None,
    ) -> None:
        self._kept = kept
        self._transformers, self._scheduler, self._expected = transformers, scheduler, steps
        self._files, self._begins = files, begins
        self._step = 0
        self._component = ""
        self._calls: list[dict[str, Any]] = []

    def __enter__(self) -> StepRecorder:
        with ExitStack() as undo:
            for name, module in self._transformers.items():
                hook = module.register_forward_pre_hook(_Hook(self, name, module), with_kwargs=True)
                undo.callback(hook.remove)
            undo.enter_context(before_each_step(self._scheduler, self._ends))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._undo.close()
        return isinstance(error, RecordingDone)

    def called(self, component: str, arguments: dict[str, Any]) -> None:
        """Record a call before it runs."""
        if not self._component:
            self._begins()
            self._component = component
        if component != self._component:
            raise UnsupportedError(f"{self._component} and {component} are both called in step {self._step + 1}")
        if self._step in self._files and self._kept in (None, component):
            timestep = _first_value(arguments.get("timestep"))
            # A step may have several calls: Wan's guidance makes two.
            self._calls.append({"timestep": timestep, "arguments": map_tensors(_copied, arguments)})

    def _ends(self) -> None:
        """Write the finished step, if it has a file."""
        # Checked in the first step, when the pipeline has set the scheduler's timesteps.
        if self._step == 0 and (made := len(self._scheduler.timesteps)) != self._expected:
            raise UnsupportedError(
                f"{type(self._scheduler).__name__} makes {made} steps where {self._expected} were expected",
                hint="give the pipeline a scheduler that makes the requested number of steps",
            )
        self._write()
        self._step, self._component = self._step + 1, ""
        if self._step > max(self._files):
            raise RecordingDone

    def _write(self) -> None:
        if not self._component or self._step not in self._files:
            return
        calls, self._calls = self._calls, []
        try:
            write_tree(self._files[self._step], {"component": self._component, "calls": calls})
        except TypeError as error:
            raise UnsupportedError(f"{self._component}: its arguments cannot be recorded; {error}") from error


class RecordingDone(Exception):
    """Ends a sampling when all wanted steps are recorded."""


class _Hook:
    """A hook before the forward of one transformer, which maps positional arguments to names."""

    def __init__(self, recorder: StepRecorder, component: str, module: nn.Module) -> None:
        self._recorder, self._component = recorder, component
        self._signature = inspect.signature(module.forward)

    def __call__(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = dict(self._signature.bind(*positional, **named).arguments)
        # bind collects the arguments of **kwargs in one dict.
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        self._recorder.called(self._component, arguments)


def require_timesteps(transformers: Mapping[str, nn.Module]) -> None:
    """Raise UnsupportedError for a transformer whose forward takes no timestep, which records need."""
    for name, module in transformers.items():
        if "timestep" not in inspect.signature(module.forward).parameters:
            raise UnsupportedError(f"{name}: {type(module).__name__} takes no timestep")


def _first_value(timestep: Any) -> float:
    return float(timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep)


def _copied(tensor: Tensor) -> Tensor:
    """Return a dense copy on the CPU: the pipeline may later write into the tensor."""
    # contiguous_format: values of an expanded tensor share memory, which no file can hold.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def before_each_step(scheduler: Any, ends: Callable[[], None]) -> AbstractContextManager[None]:
    """Call `ends` before each step of the scheduler within the block.

    Timesteps cannot separate steps: rounded to bfloat16, several steps may have the same timestep.
    """
    step = scheduler.step

    @wraps(step)  # pipelines inspect its signature
    def step_with_callback(*arguments: Any, **named: Any) -> Any:
        ends()
        return step(*arguments, **named)

    return temporarily(scheduler, "step", step_with_callback)
