"""Runs the forwards of all samples in step, layer by layer, so that only one layer's weights are loaded at a time.

A forward is a greenlet: it is suspended inside the model's own code, just before it enters a decoder layer, until all
other samples have reached that layer. So the model's own code for masks, rope and layer kinds runs unchanged, once per
sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch
from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # greenlet has no types
from torch import Tensor, nn

from fa3cli.errors import UnsupportedError, brief
from fa3cli.models.memory import in_own_memory
from fa3cli.models.temporarily import temporarily
from fa3cli.models.tensor_tree import map_tensors

__all__ = ["LayerSynchronousForwards"]


class LayerSynchronousForwards:
    """The suspended forwards of `samples` (keyword arguments of the model); a context manager.

    `start` runs all forwards up to the first layer, `advance` runs one forward through its next layer. After the last
    layer, `finish` runs a forward to its end, and `stop` ends it there. `outputs` are the forwards' outputs of their
    last layer. `arguments` are the arguments of the layer call before which the first forward is suspended, if any.

    The first `skipped` layers do not run: the last of them returns the given `outputs`, the others return NaN of the same
    shape, which becomes visible if anything uses it. `earlier` are the return values of these other layers, if they
    have other shapes; then there is only one sample.

    Raises UnsupportedError if a forward does not visit each layer once, in order. Of a forward that is stopped early,
    only the part before the stop is checked.
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
        self._hooks = [layer.register_forward_hook(self._after_layer) for layer in self._layers[skipped:]]
        self._hooks += [
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True) for layer in self._layers[skipped:]
        ]
        # Suspend after the last layer, too: the code after it needs other weights.
        # Registered after _after_layer, which has stored the output by then.
        self._hooks.append(self._layers[-1].register_forward_hook(_suspend))
        self._earlier, self._undo = earlier, ExitStack()
        for index, layer in enumerate(self._layers[:skipped]):
            self._undo.enter_context(temporarily(layer, "forward", partial(self._skip, index)))

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
        """Run a sample through layer `index` up to the next layer; after the last layer it is suspended, too.

        The index after the last layer stands for the rest of the model, the head.
        """
        if index == len(self._layers):
            self.finish(sample)
            return
        # After the last layer, the hook of this layer itself suspends the forward.
        self._switch_to(sample, self._layers[min(index + 1, len(self._layers) - 1)])

    @torch.no_grad()
    def finish(self, sample: int) -> Any:
        """Run the rest of the model after the last layer and return the model's output."""
        self._running = sample
        output = self._forwards[sample].switch()
        # A module instead of an output: the forward was suspended before one more layer.
        if isinstance(output, nn.Module):
            raise _order_error(sample, output)
        return output

    @torch.no_grad()
    def stop(self, sample: int) -> None:
        """End a sample's forward and free its tensors."""
        # A greenlet is true from its first switch until its end.
        if self._forwards[sample]:
            self._forwards[sample].throw()  # GreenletExit unwinds the forward's frames, which hold tensors
        self.outputs[sample] = None
        self.arguments = None if sample == 0 else self.arguments

    @torch.no_grad()
    def _switch_to(self, sample: int, expected: nn.Module) -> None:
        # torch's grad mode belongs to the thread, not to the greenlet: each switch sets it anew.
        self._running = sample
        try:
            reached = self._forwards[sample].switch()
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
            raise UnsupportedError(
                f"the forward of sample {sample + 1} uses weights of another layer than {type(expected).__name__} reads "
                f"({brief(error)})",
                hint="a model whose layers share weights, or that uses weights between its layers, cannot be streamed",
            ) from error
        if reached is not expected:
            raise _order_error(sample, reached)

    def _before_layer(self, layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if _in_own_greenlet():
            if self._running == 0:
                self.arguments = positional, named
            _suspend(layer)

    def _after_layer(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not _in_own_greenlet():
            return output
        self.arguments = None if self._running == 0 else self.arguments
        # The forward gets the copy, too: otherwise it would keep the original in the heap.
        self.outputs[self._running] = output = map_tensors(in_own_memory, output)
        return output

    def _skip(self, index: int, *_: Any, **__: Any) -> Any:
        output = self.outputs[self._running]
        if index == self._skipped - 1:
            return output
        return self._earlier[index] if self._earlier else map_tensors(_as_nan, output)


def _order_error(sample: int, reached: Any) -> UnsupportedError:
    found = f"another {type(reached).__name__}" if isinstance(reached, nn.Module) else "its end"
    return UnsupportedError(
        f"the forward of sample {sample + 1} reached {found} instead of the expected layer",
        hint="a model that skips, repeats or reorders its decoder layers cannot be streamed",
    )


def _as_nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def _in_own_greenlet() -> bool:
    """Tell whether the caller is one of our greenlets, and not code that calls a layer directly."""
    return getcurrent().parent is not None


def _suspend(module: nn.Module, *_: Any) -> None:
    """Suspend the forward that reached `module`, if it is one of our greenlets."""
    if _in_own_greenlet():
        getcurrent().parent.switch(module)
