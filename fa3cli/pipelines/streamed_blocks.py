"""Runs a whole streamed transformer with one of its blocks in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from fa3cli.models.memory import FreedMemory
from fa3cli.models.streamed_model import StreamedModel

__all__ = ["blocks_streamed"]


@contextmanager
def blocks_streamed(model: StreamedModel) -> Iterator[None]:
    """Load each layer of `model.model` only while it runs, for calls of the model within the block.

    Tensors outside the layers are loaded for the whole block. After the block, nothing stays loaded, even after an error.
    """
    names, freed = list(model.layers), FreedMemory(model.layer_bytes)
    with ExitStack() as outside, ExitStack() as running:
        outside.enter_context(model.loaded(model.outside))

        def begins(_: nn.Module, __: Any, name: str, after: str) -> None:
            running.close()
            # After close: the previous block's weights are freed before the next are loaded.
            running.enter_context(model.loaded(model.of_layer[name]))
            model.read_ahead(model.of_layer[after])

        def ends(*_: Any) -> None:
            running.close()
            freed.release_if_grown()

        # After the last block, the first block of the next step follows.
        for name, after in zip(names, [*names[1:], names[0]]):
            layer = model.layers[name]
            hooks = (
                layer.register_forward_pre_hook(partial(begins, name=name, after=after)),
                layer.register_forward_hook(ends),
            )
            for hook in hooks:
                outside.callback(hook.remove)
        yield
