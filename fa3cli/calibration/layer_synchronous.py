"""Runs every sample's own forward at once, all of them meeting at each decoder layer.

A forward is a greenlet: it is suspended inside the model's own code, just before it enters a decoder
layer, while the other samples catch up. So the model's code for masks, rope and layer kinds runs as
it is, once a sample, and one layer's weights are needed at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from fa3cli.errors import UnsupportedError

__all__ = ["LayerSynchronousForwards"]


class LayerSynchronousForwards:
    """The suspended forwards of `samples` (keyword arguments of the model), to be used as a context.

    `start` brings all of them to the first layer, `advance` takes one through the layer it waits at; after
    the last layer `finish` lets it run to its end and `stop` ends it there. Raises UnsupportedError where
    a forward does not visit the layers once each, in order; one that is stopped early shows no more of its way.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[nn.Module], samples: Sequence[dict[str, Any]]
    ) -> None:
        self._layers = list(layers)
        self._forwards = [greenlet(partial(model, **sample)) for sample in samples]
        self._hooks = [layer.register_forward_pre_hook(_meet) for layer in self._layers]
        self._hooks.append(self._layers[-1].register_forward_hook(_meet))

    def __enter__(self) -> LayerSynchronousForwards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sample in range(len(self._forwards)):
            self.stop(sample)
        for hook in self._hooks:
            hook.remove()

    def start(self) -> None:
        """Run everything before the first layer."""
        for sample in range(len(self._forwards)):
            self._switch_to(sample, self._layers[0])

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
        output = self._forwards[sample].switch()
        if isinstance(output, nn.Module):
            raise _lost(sample, output)
        return output

    @torch.no_grad()
    def stop(self, sample: int) -> None:
        """End a sample's forward where it is and free what it holds."""
        if self._forwards[sample]:
            self._forwards[sample].throw()

    @torch.no_grad()
    def _switch_to(self, sample: int, expected: nn.Module) -> None:
        reached = self._forwards[sample].switch()
        if reached is not expected:
            raise _lost(sample, reached)


def _lost(sample: int, reached: Any) -> UnsupportedError:
    found = f"another {type(reached).__name__}" if isinstance(reached, nn.Module) else "its end"
    return UnsupportedError(
        f"the forward of sample {sample + 1} reached {found} instead of what comes next",
        hint="a model that skips, repeats or reorders its decoder layers cannot be streamed",
    )


def _meet(module: nn.Module, *_: Any) -> None:
    """Suspend the forward that reached `module`, if it is one of ours."""
    hub = getcurrent().parent
    if hub is not None:
        hub.switch(module)
