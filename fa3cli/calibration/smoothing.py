"""Applies AntiOutlier to a loaded layer: finds the scales of its groups, and moves them into the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.ranks import ALONE, Ranks
from fa3cli.calibration.smoothing_groups import group_data, groups_of, shared_heads
from fa3cli.errors import UnsupportedError
from fa3cli.models.layered_model import LayeredModel
from fa3cli.models.out_of_memory import with_cpu_retry
from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.quantization.anti_outlier.group import Group
from fa3cli.quantization.anti_outlier.methods import METHODS
from fa3cli.quantization.settings import QuantSettings
from fa3cli.samples.recorded_call import RecordedCall

__all__ = ["find_smoothing", "require_groups", "smooth", "wrapped_norms"]


def find_smoothing(
    model: LayeredModel,
    layer: str,
    settings: QuantSettings,
    run_samples: Callable[[LinearInputs[ChannelStatistics]], None],
    ranks: Ranks = ALONE,
    *,
    checked: bool,
) -> dict[str, Tensor]:
    """Return the scales of a layer's groups by the name of their source module; the layer is not changed.

    `run_samples` runs this rank's share of AntiOutlier's samples through the layer. Raises InvalidInputError if an input
    is not finite; with `checked`, UnsupportedError if the smoothed layer computes something else.
    """
    method = METHODS[settings.anti_method]
    groups = groups_of(model, layer, method.groups)
    linears = {name: model.module(name) for group in groups for name in group.linears}
    inputs = LinearInputs(linears, dict.fromkeys(linears, ChannelStatistics(method.keep)))
    with inputs, RecordedCall(model.layers[layer]) as call:
        run_samples(inputs)
    observers = ranks.merged(inputs.observers)
    scales = {}
    for group in groups:
        data = group_data(model, group, observers[group.linears[0]], settings)
        scales[group.source] = _within_dtype(model, group, with_cpu_retry(method.rule, data))
    scales = ranks.first(scales)  # a rank that computed on the CPU may differ in the last bit
    if checked and call.made:
        _require_same_output(model, layer, settings.anti_method, scales, call)
    return scales


def smooth(model: LayeredModel, layer: str, anti_method: str, scales: Mapping[str, Tensor]) -> None:
    """Multiply the input channels of each group by its scale and divide their source by it; the layer must be loaded."""
    for group in groups_of(model, layer, METHODS[anti_method].groups) if scales else ():
        source = model.module(group.source)
        weight, bias = model.tensor(f"{group.source}.weight"), model.bias(group.source)
        scale = scales[group.source].to(weight.device)
        for name in group.linears:
            # New tensors, never in place: a weight may share memory with its mapped file.
            _replace(model.module(name), weight=model.tensor(f"{name}.weight") * scale)
        if isinstance(source, nn.Linear):
            heads, repeats = shared_heads(model, group)
            # The source has one channel for `repeats` channels of the input; these have the same scale.
            scale = scale.view(heads, repeats, -1)[:, 0].reshape(-1)
        divisor = scale.unsqueeze(1) if weight.dim() == 2 else scale
        _replace(source, weight=weight / divisor)
        if bias is not None:
            # The source adds its bias to the channels that are divided.
            _replace(source, bias=bias / scale)


def require_groups(model: LayeredModel, anti_method: str) -> None:
    """Raise UnsupportedError if a model has no groups that AntiOutlier smooths."""
    groups = METHODS[anti_method].groups
    if not any(groups_of(model, layer, groups) for layer in model.layers):
        wanted = "; ".join(f"{group.source} before {', '.join(group.linears)}" for group in groups)
        raise UnsupportedError(
            f"AntiOutlier {anti_method}: no decoder layer of {type(model.model).__name__} has modules that it smooths ({wanted})",
            hint="quantize with --anti-method none",
        )


def wrapped_norms(model: LayeredModel, anti_method: str) -> frozenset[str]:
    """Return the norms to export like the reference's wrapped norms: all modules of each class that was smoothed."""
    if anti_method == "none" or not METHODS[anti_method].wraps_norms:
        return frozenset()
    sources = {
        model.module(group.source)
        for layer in model.layers
        for group in groups_of(model, layer, METHODS[anti_method].groups)
    }
    kinds = {type(source) for source in sources if not isinstance(source, nn.Linear)}
    return frozenset(name for name, module in model.modules() if type(module) in kinds)


def _modules(model: LayeredModel, groups: list[Group]) -> list[nn.Module]:
    names = dict.fromkeys(name for group in groups for name in (group.source, *group.linears))
    return [model.module(name) for name in names]


def _within_dtype(model: LayeredModel, group: Group, scale: Tensor) -> Tensor:
    """Return the scale, with 1 for channels whose weights would overflow (dead float16 channels, extreme outliers)."""
    heads, repeats = shared_heads(model, group)
    weight = model.tensor(f"{group.source}.weight")
    scale = scale.to(weight.device, model.dtype)
    divided = weight.abs() if weight.dim() == 1 else _largest(weight, dim=1)
    divided = divided.view(heads, 1, -1).expand(-1, repeats, -1).reshape(-1) / scale
    fits = scale.isfinite() & (scale > 0) & divided.isfinite()
    for name in group.linears:
        fits &= (_largest(model.tensor(f"{name}.weight"), dim=0) * scale).isfinite()
    # Heads that share a source need one scale: if it does not fit one of them, none is scaled.
    shared = fits.view(heads, repeats, -1).all(dim=1, keepdim=True).expand(-1, repeats, -1)
    return torch.where(shared.reshape(-1), scale, 1.0).to(scale.dtype)


def _largest(weight: Tensor, dim: int) -> Tensor:
    """Return the largest magnitudes along a dimension, without a copy of the weight."""
    return torch.maximum(weight.amax(dim=dim), -weight.amin(dim=dim))


def _require_same_output(
    model: LayeredModel, layer: str, anti_method: str, scales: Mapping[str, Tensor], call: RecordedCall
) -> None:
    """Raise UnsupportedError if a smoothed layer's output differs by more than rounding explains."""
    modules = _modules(model, groups_of(model, layer, METHODS[anti_method].groups))
    # Only a model in memory needs copies: other weights can be read again from the files.
    kept = [(module, dict(module.named_parameters(recurse=False))) for module in modules if model.resident]
    smooth(model, layer, anti_method, scales)
    difference = ((call.repeat() - call.output).norm() / call.output.norm()).item()
    # Restored before the error below: a refused model stays unchanged.
    for module, tensors in kept:
        _replace(module, **tensors)
    model.reload(model.of_layer[layer])
    # `not <=`: a difference of NaN is refused, too.
    if not difference <= math.sqrt(torch.finfo(model.dtype).eps):
        raise UnsupportedError(
            f"{layer}: AntiOutlier {anti_method} would change its output by {difference:.1%} on the first "
            "sample; its norms are scaled in another way, or are read by other modules than the linears fa3 knows",
            hint="quantize with --anti-method none",
        )


def _replace(module: nn.Module, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        setattr(module, name, nn.Parameter(tensor.detach(), requires_grad=False))
