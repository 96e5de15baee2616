"""Runs every sample's own forward at once, all of them meeting at each decoder layer.

A forward is a greenlet: it is suspended inside the model's own code, just before it enters a decoder
layer, while the other samples catch up. So the model's code for masks, rope and layer kinds runs as
it is, once a sample, and one layer's weights are needed at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from fa3cli.calibration.memory import in_own_memory
from fa3cli.calibration.moving import each_tensor
from fa3cli.calibration.replaced import replaced
from fa3cli.errors import UnsupportedError

__all__ = ["LayerSynchronousForwards"]


class LayerSynchronousForwards:
    """The suspended forwards of `samples` (keyword arguments of the model), to be used as a context.

    `start` brings all of them to the first layer, `advance` takes one through the layer it waits at; after
    the last layer `finish` lets it run to its end and `stop` ends it there. `outputs` are what the forwards got from
    the layer they passed last. The first `skipped` layers are not run: the last of them returns these `outputs`, the
    others as much NaN, which shows wherever it would matter; `earlier` are what these others return, by layer, where
    that has another form, and there is one sample then. `arguments` are those of the layer call that the first
    forward waits in, if it does. Raises UnsupportedError where a forward does not visit the layers once each, in order;
    one that is stopped early shows no more of its way.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        samples: Sequence[dict[str, Any]],
        *,
        skipped: int = 0,
        outputs: Sequence[Any] = (),
        earlier: Sequence[Any] = (),
    ) -> None:
        self.outputs: list[Any] = list(outputs) or [None] * len(samples)
        self.arguments: Any = None
        self._layers, self._skipped, self._running = list(layers), skipped, 0
        self._forwards = [greenlet(partial(model, **sample)) for sample in samples]
        self._hooks = [layer.register_forward_hook(self._passed) for layer in self._layers[skipped:]]
        self._hooks += [
            layer.register_forward_pre_hook(self._reached, with_kwargs=True)
            for layer in self._layers[skipped:]
        ]
        self._hooks.append(self._layers[-1].register_forward_hook(_meet))
        self._earlier, self._undo = earlier, ExitStack()
        for index, layer in enumerate(self._layers[:skipped]):
            self._undo.enter_context(replaced(layer, "forward", partial(self._skip, index)))

    def __enter__(self) -> LayerSynchronousForwards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sample in range(len(self._forwards)):
            self.stop(sample)
        for hook in self._hooks:
            hook.remove()
        self._undo.close()

    def start(self) -> None:
        """Run everything before the first layer that is not skipped."""
        for sample in range(len(self._forwards)):
            self._switch_to(sample, self._layers[min(self._skipped, len(self._layers) - 1)])

    def advance(self, sample: int, index: int) -> None:
        """Take a sample through layer `index` and up to the next one; the last layer's end stops it too.

        An index behind the last layer stands for all that follows, the head.
        """
        if index == len(self._layers):
            self.finish(sample)
            return
        self._switch_to(sample, self._layers[min(index + 1, len(self._layers) - 1)])

    @torch.no_grad()
    def finish(self, sample: int) -> Any:
        """Run what follows the last layer and return the model's output."""
        self._running = sample
        output = self._forwards[sample].switch()
        if isinstance(output, nn.Module):
            raise _lost(sample, output)
        return output

    @torch.no_grad()
    def stop(self, sample: int) -> None:
        """End a sample's forward where it is and free what it holds."""
        if self._forwards[sample]:
            self._forwards[sample].throw()
        self.outputs[sample] = None
        self.arguments = None if sample == 0 else self.arguments

    @torch.no_grad()
    def _switch_to(self, sample: int, expected: nn.Module) -> None:
        self._running = sample
        reached = self._forwards[sample].switch()
        if reached is not expected:
            raise _lost(sample, reached)

    def _reached(self, layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if _is_ours():
            if self._running == 0:
                self.arguments = positional, named
            _meet(layer)

    def _passed(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not _is_ours():
            return output
        self.arguments = None if self._running == 0 else self.arguments
        self.outputs[self._running] = output = each_tensor(in_own_memory, output)
        return output

    def _skip(self, index: int, *_: Any, **__: Any) -> Any:
        output = self.outputs[self._running]
        if index == self._skipped - 1:
            return output
        return self._earlier[index] if self._earlier else each_tensor(_as_nan, output)


def _lost(sample: int, reached: Any) -> UnsupportedError:
    found = f"another {type(reached).__name__}" if isinstance(reached, nn.Module) else "its end"
    return UnsupportedError(
        f"the forward of sample {sample + 1} reached {found} instead of what comes next",
        hint="a model that skips, repeats or reorders its decoder layers cannot be streamed",
    )


def _as_nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def _is_ours() -> bool:
    """Tell whether a forward is running, and not somebody who calls a layer by itself."""
    return getcurrent().parent is not None


def _meet(module: nn.Module, *_: Any) -> None:
    """Suspend the forward that reached `module`, if it is one of ours."""
    if _is_ours():
        getcurrent().parent.switch(module)
