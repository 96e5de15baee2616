"""Measures the error of a decoder layer that runs quantized; `fa3 report` shows it per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fa3cli import logger
from fa3cli.calibration.attention_error import int8_states
from fa3cli.calibration.parameters import LayerParameters, Range
from fa3cli.errors import brief
from fa3cli.fa_quantizer import quantizer_of
from fa3cli.models.temporarily import temporarily
from fa3cli.numerics.row_blocks import row_blocks
from fa3cli.quantization import linear, reference_linear
from fa3cli.quantization.fake_linear import fake_dynamic_linear, fake_linear
from fa3cli.quantization.settings import QuantSettings
from fa3cli.samples.masking import real_rows
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["layer_error"]


def layer_error(
    call: RecordedCall,
    module: Callable[[str], nn.Module],
    found: LayerParameters,
    settings: QuantSettings,
    mask: Tensor | None = None,
) -> float | None:
    """Return `||y_q - y|| / ||y - x||` of a loaded layer on a recorded call, None if the result is not finite.

    y is the layer's output; y_q is the output with all linears and attention states in `found` quantized (fa_amp
    chooses later). x is the argument of y's shape, or 0 if there is none: it is subtracted because the residual x in y
    is large and would hide the error. The comparison covers the first output, and each other output with the shape of
    an argument (one argument per output): diffusion blocks return text and image; language layers also return caches
    and attention weights. `module` returns a module by its name in `found`. Improved numerics omit padding by
    `mask [B, S]`. The layer is always restored.
    """
    if not call.made:
        return None
    if not found.linears and not found.attentions:
        return 0.0
    try:
        # The extra calls must not change the random numbers of later code.
        with torch.random.fork_rng(devices=()):
            # With the reference's numerics, the call was recorded on fake-quantized linears: its output is not float.
            exact = call.repeat_outputs(Tensor.clone) if settings.reference else call.outputs
            with _quantized(module, found, settings):
                # Clones: a layer that writes into its arguments would change the states of a waiting forward.
                noisy = call.repeat_outputs(Tensor.clone)
            mask = None if settings.reference else mask
            noise, added = _norms(noisy, exact, call.arguments, mask)
    except Exception as problem:  # noqa: BLE001 - a model's code may fail on a second call, which the run does not need
        logger.warning("%s: its error could not be measured (%s)", found.name, brief(problem))
        return None
    return _ratio(noise, added)


def _norms(noisy: list[Tensor], exact: list[Tensor], arguments: list[Any], mask: Tensor | None) -> tuple[float, float]:
    """Return `||y_q - y||` and `||y - x||` over all compared outputs."""
    squares = torch.zeros(2, dtype=torch.float64)
    for position, pair in enumerate(zip(noisy, exact, strict=True)):
        matching = next((place for place, argument in enumerate(arguments) if _has_shape_of(argument, pair[1])), None)
        if matching is not None:
            squares += _square_sums(*pair, arguments.pop(matching), mask)
        elif position == 0:
            squares += _square_sums(*pair, None, mask)
    noise, added = squares.sqrt().tolist()
    return noise, added


def _square_sums(noisy: Tensor, exact: Tensor, before: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the sums of squares of noisy - exact and exact - before, `[2]`, all `[..., C]`.

    Summed in float64 on the CPU, since some devices lack it, in blocks of rows: a video's states are gigabytes.
    """
    noisy, exact = (real_rows(output, mask).reshape(-1, output.shape[-1]) for output in (noisy, exact))
    before = None if before is None else real_rows(before, mask).reshape(exact.shape)
    sums = torch.zeros(2, dtype=torch.float64)
    for rows in row_blocks(exact):
        floats = exact[rows].cpu().double()
        added = floats if before is None else floats - before[rows].cpu().double()
        sums[0] += (noisy[rows].cpu().double() - floats).square().sum()
        sums[1] += added.square().sum()
    return sums


@contextmanager
def _quantized(module: Callable[[str], nn.Module], found: LayerParameters, settings: QuantSettings) -> Iterator[None]:
    """Make a layer's modules compute like its export within the block; a linear's weight is quantized during its call."""
    with ExitStack() as undo:
        for name, ranges in found.linears.items():
            linear = module(name)
            undo.enter_context(temporarily(linear, "forward", _int8_forward(linear, ranges, settings)))
        for name, roles in found.attentions.items():
            quantizer = quantizer_of(module(name))
            undo.enter_context(temporarily(quantizer, "transform", int8_states(roles)))
        yield


def _int8_forward(module: Any, ranges: Range | None, settings: QuantSettings) -> Callable[[Tensor], Tensor]:
    if ranges is None:
        return partial(_dynamic_call, module)
    parameters = (reference_linear if settings.reference else linear).input_parameters
    scale, offset = parameters(*ranges, module.weight.dtype)
    return partial(_int8_call, module, scale=scale, offset=offset, settings=settings)


def _int8_call(module: nn.Linear, states: Tensor, *, scale: Tensor, offset: Tensor, settings: QuantSettings) -> Tensor:
    how = {"mm_tensor": settings.mm_tensor, "reference": settings.reference}
    return fake_linear(states, module.weight.detach(), module.bias, scale, offset, **how)


def _dynamic_call(module: nn.Linear, states: Tensor) -> Tensor:
    return fake_dynamic_linear(states, module.weight.detach(), module.bias)


def _has_shape_of(value: object, exact: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == exact.shape and value.is_floating_point()


def _ratio(noise: float, signal: float) -> float | None:
    # A layer that adds nothing has no scale to compare the error with.
    ratio = noise / signal if signal else math.nan
    return ratio if math.isfinite(ratio) else None
