"""How far a decoder layer is off when it runs quantized: what `fa3 report` shows of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fa3cli import logger
from fa3cli.calibration.attention_error import int8_states
from fa3cli.calibration.masking import real_rows
from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.calibration.recorded_call import RecordedCall
from fa3cli.errors import brief
from fa3cli.quantization import linear, reference_linear
from fa3cli.quantization.fake_linear import fake_linear
from fa3cli.quantization.settings import QuantSettings

__all__ = ["layer_error"]


def layer_error(
    call: RecordedCall,
    model: nn.Module,
    found: LayerParameters,
    settings: QuantSettings,
    mask: Tensor | None = None,
) -> float | None:
    """Return `||y_q - y|| / ||y - x||` of a loaded layer on a call of it that was recorded, None where it is no number.

    y is the layer's output, y_q that of the layer with the linears and attention states in `found` quantized, all of
    them: fa_amp chooses later. x is the argument of y's shape, whose part of y an error would be lost in; 0 without one.
    Improved numerics leave padding out, by `mask [B, S]`. The layer is left as it is, whatever happens.
    """
    if not call.made:
        return None
    if not found.linears and not found.attentions:
        return 0.0
    try:
        with torch.random.fork_rng(devices=()):
            # The reference's calibration ran on a layer that was quantized, with the ranges known then.
            exact = call.again(Tensor.clone) if settings.reference else call.output
            with _quantized(model, found, settings):
                noise = call.again(Tensor.clone) - exact
    except Exception as problem:  # noqa: BLE001 - a model's code may not stand a second call, and the run needs none
        logger.warning("%s: its error could not be measured (%s)", found.name, brief(problem))
        return None
    before = next((each for each in call.arguments if _is_like(each, exact)), None)
    added = exact if before is None else exact - before.cpu().double()
    mask = None if settings.reference else mask
    return _ratio(*(real_rows(each, mask).norm().item() for each in (noise, added)))


@contextmanager
def _quantized(model: nn.Module, found: LayerParameters, settings: QuantSettings) -> Iterator[None]:
    """Have a layer's modules compute as its export will within the block; a linear's weight is quantized in its call."""
    with ExitStack() as undo:
        for name, ranges in found.linears.items():
            module = model.get_submodule(name)
            undo.enter_context(_replaced(module, "forward", _int8_forward(module, ranges, settings)))
        for name, roles in found.attentions.items():
            quantizer = model.get_submodule(name).fa_quantizer
            undo.enter_context(_replaced(quantizer, "transform", int8_states(roles)))
        yield


def _int8_forward(module: nn.Linear, ranges: Range, settings: QuantSettings) -> Callable[[Tensor], Tensor]:
    parameters = (reference_linear if settings.reference else linear).input_parameters
    scale, offset = parameters(*ranges, module.weight.dtype)
    return partial(_int8_call, module, scale=scale, offset=offset, settings=settings)


def _int8_call(
    module: nn.Linear, states: Tensor, *, scale: Tensor, offset: Tensor, settings: QuantSettings
) -> Tensor:
    how = {"mm_tensor": settings.mm_tensor, "reference": settings.reference}
    return fake_linear(states, module.weight.detach(), module.bias, scale, offset, **how)


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Have another value in an object's own attribute within the block."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        own.update(before)


def _is_like(value: object, exact: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == exact.shape and value.is_floating_point()


def _ratio(noise: float, signal: float) -> float | None:
    ratio = noise / signal if signal else math.nan
    return ratio if math.isfinite(ratio) else None
