"""calib_data of a script, as samples: each item holds the arguments of one forward, by position or by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fa3cli.calibration.dataset import Sample, require_fit
from fa3cli.errors import InvalidInputError

__all__ = ["samples_of"]


def samples_of(calib_data: Sequence[Any] | None, model: nn.Module) -> list[Sample]:
    """Return the samples of `calib_data`, a list of lists or of dicts (a tokenizer's output is one).

    A list's items are the arguments of the model's forward in their order. Raises InvalidInputError where there is
    no data, or an item that no forward could take.
    """
    if not calib_data:
        raise InvalidInputError(
            "calib_data is empty", hint="give a list with the inputs of a forward for each calibration sample"
        )
    return [_sample(f"calib_data[{index}]", item, model) for index, item in enumerate(calib_data)]


def _sample(origin: str, item: Any, model: nn.Module) -> Sample:
    if isinstance(item, Mapping):
        arguments = dict(item)
    elif isinstance(item, (list, tuple)):
        arguments = dict(zip(inspect.signature(model.forward).parameters, item))
    else:
        raise InvalidInputError(
            f"{origin} is a {type(item).__name__}; expected a list of a forward's arguments, or a dict of them"
        )
    ids = arguments.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise InvalidInputError(
            f"{origin}: input_ids is {_described(ids)}; expected token ids, a tensor of shape [batch, length]",
            hint='tokenizer(text, return_tensors="pt") makes them',
        )
    sample = Sample(origin, {name: value for name, value in arguments.items() if value is not None})
    require_fit(sample, getattr(model.config, "max_position_embeddings", None), model.config.vocab_size)
    return sample


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "missing" if value is None else f"a {type(value).__name__}"
