"""Combines the facts about each layer in the tensors and in the run's report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from fa3cli.quantization.float_only import ROUTER
from fa3cli.report.facts import FloatModule, HeadScales, LayerFacts
from fa3cli.report.names import layer_of, module_order
from fa3cli.report.recorded import Recorded, RecordedLayer
from fa3cli.report.stored import Matrices

__all__ = ["gather_layers"]


def gather_layers(
    recorded: Recorded, matrices: Matrices, scales: Collection[HeadScales], *, has_tensors: bool
) -> tuple[LayerFacts, ...]:
    """Return the facts of each layer; where tensors and report differ, the tensors decide what is quantized.

    If the report lists layers, only its layers count, in its order: a text refiner has blocks with similar names, and
    two kinds of blocks do not run in the order of their names.
    """
    quantized, left_float = _by_layer(matrices.quantized), _by_layer(matrices.left_float)
    roles: dict[str, set[str]] = defaultdict(set)
    for scale in scales:
        roles[scale.layer].add(scale.role)
    names = list(recorded.layers) or sorted({*quantized, *left_float, *roles}, key=module_order)
    if not (errors := recorded.layer_errors) or len(errors) != len(names):
        errors = (None,) * len(names)
    layers = []
    for name, accumulated in zip(names, errors, strict=True):
        # Without a report, a layer's attention counts as float if the attention of another layer has scales.
        unexplained = tuple(
            FloatModule(linear, ROUTER if linear in matrices.routers else None) for linear in left_float.get(name, ())
        )
        fa = False if roles else None
        unrecorded = RecordedLayer(name, 0, unexplained, fa, None, None, None, ())
        record = recorded.layers.get(name, unrecorded)
        scaled = tuple(role for role in "qkv" if role in roles.get(name, ()))
        if not has_tensors and record.fa:
            scaled = tuple("qkv")
        layers.append(
            LayerFacts(
                name=name,
                quantized=len(quantized.get(name, ())) if has_tensors else record.quantized,
                float_linears=record.float_linears,
                fa=bool(scaled) if scaled or record.fa is not None else None,
                fa_roles=scaled,
                fa_reason=record.fa_reason,
                fa_score=record.fa_score,
                error=record.error,
                accumulated_error=accumulated,
                timesteps=record.timesteps,
            )
        )
    return tuple(layers)


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if layer := layer_of(name):
            layers[layer].append(name)
    return dict(layers)
