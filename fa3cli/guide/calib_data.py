"""Converts a script's calib_data to samples: an item holds the arguments of one forward, by position or by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fa3cli.errors import InvalidInputError
from fa3cli.samples.dataset import Sample, require_fit

__all__ = ["samples_of"]


def samples_of(calib_data: Iterable[Any] | None, model: nn.Module) -> list[Sample]:
    """Return the samples of `calib_data`, a list of lists or of dicts (a tokenizer's output is a dict).

    A list holds the arguments in the order of the model's forward. Raises InvalidInputError if there is no data, or if
    the forward cannot take an item.
    """
    if isinstance(calib_data, (torch.Tensor, Mapping, str)):
        raise InvalidInputError(f"calib_data is a {type(calib_data).__name__}; {_EXPECTED}")
    samples = [
        _sample(f"calib_data[{index}]", item, model)
        for index, item in enumerate(() if calib_data is None else calib_data)
    ]
    if not samples:
        raise InvalidInputError(f"calib_data is empty; {_EXPECTED}")
    return samples


_EXPECTED = "expected a list that holds the inputs of one forward per calibration sample"


def _sample(origin: str, item: Any, model: nn.Module) -> Sample:
    if isinstance(item, Mapping):
        arguments = dict(item)
    elif isinstance(item, (list, tuple)):
        arguments = dict(zip(inspect.signature(model.forward).parameters, item))
    else:
        raise InvalidInputError(
            f"{origin} is a {type(item).__name__}; expected a list or a dict of a forward's arguments"
        )
    ids = arguments.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise InvalidInputError(
            f"{origin}: input_ids is {_described(ids)}; expected token ids, a tensor of shape [batch, length]",
            hint='tokenizer(text, return_tensors="pt") returns such a tensor',
        )
    mask = arguments.get("attention_mask")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.shape[0] == ids.shape[0]):
        raise InvalidInputError(
            f"{origin}: attention_mask is {_described(mask)}; expected a tensor for input_ids {list(ids.shape)}"
        )
    sample = Sample(origin, {name: value for name, value in arguments.items() if value is not None})
    config: Any = model.config
    require_fit(sample, getattr(config, "max_position_embeddings", None), config.vocab_size)
    return sample


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "missing" if value is None else f"a {type(value).__name__}"
