"""Wraps a model whose weights are in memory already, as a script that calls fa3 has loaded it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fa3cli.errors import UnsupportedError
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.published.conversions import match_checkpoint
from fa3cli.models.published.saving import saved_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["MemoryModel"]


class MemoryModel(LayeredModel):
    """A causal LM with its parameters on one device; nothing is loaded or freed.

    The fused experts of transformers 5 become linears in the model, which are views of the same memory.
    Raises UnsupportedError if its parameters are on several devices, on the meta device, or of several dtypes.
    """

    resident = True

    def __init__(self, model: PreTrainedModel) -> None:
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) != 1 or devices == {torch.device("meta")}:
            raise UnsupportedError(
                f"{type(model).__name__}: its parameters are on {', '.join(sorted(map(str, devices)))}, "
                "expected one device",
                hint="load it without device_map, or give fa3 the folder of its weights: then one layer is loaded at a time",
            )
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.dtype != model.dtype:
                raise UnsupportedError(
                    f"{name} is {_name(parameter.dtype)}, other parameters are {_name(model.dtype)}",
                    hint=f"convert the model to one dtype, for example with model.to(torch.{_name(model.dtype)})",
                )
        # match_checkpoint may replace modules, so it must run before the modules get their names.
        super().__init__(model, model.dtype, devices.pop(), published=match_checkpoint(model, None))
        # A tied tensor is exported once, under its first name.
        self._sort_names([name for name in self.names if name not in self.tied])
        self.copied_for = self.published.copied_for

    @contextmanager
    def loaded(self, names: list[str], device: torch.device | None = None) -> Iterator[None]:
        """Do nothing: the tensors are always loaded."""
        yield

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self.tensor(name).shape)

    def published_tensor(self, name: str) -> Tensor:
        """Return a published tensor as transformers would save it."""
        conversion = next(found for found in self.published.conversions if name in found.sources)
        made = {path: self.tensor(path).detach() for path in conversion.targets}
        return saved_tensors(self.model, made)[name]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
