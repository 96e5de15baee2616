"""What became of each decoder layer, from its tensors and from what the run wrote down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from fa3cli.report.facts import FloatModule, HeadScales, LayerFacts
from fa3cli.report.names import layer_of, module_order
from fa3cli.report.recorded import Recorded, RecordedLayer
from fa3cli.report.stored import Matrices

__all__ = ["gather_layers"]


def gather_layers(
    recorded: Recorded, matrices: Matrices, scales: Collection[HeadScales], *, has_tensors: bool
) -> tuple[LayerFacts, ...]:
    """Put together what is known of each layer; the tensors have the last word on what is quantized."""
    quantized, left_float = _by_layer(matrices.quantized), _by_layer(matrices.left_float)
    roles: dict[str, set[str]] = defaultdict(set)
    for each in scales:
        roles[each.layer].add(each.role)
    names = sorted({*recorded.layers, *quantized, *left_float, *roles}, key=module_order)
    if not (errors := recorded.layer_errors) or len(errors) != len(names):
        errors = (None,) * len(names)
    layers = []
    for name, accumulated in zip(names, errors, strict=True):
        # Without a record, a layer counts as one that could have been int8 if others are.
        unexplained = tuple(FloatModule(linear, None) for linear in left_float.get(name, ()))
        untold = RecordedLayer(name, 0, unexplained, False if roles else None, None, None, None)
        told = recorded.layers.get(name, untold)
        found = tuple(role for role in "qkv" if role in roles.get(name, ()))
        if not has_tensors and told.fa:
            found = tuple("qkv")
        layers.append(
            LayerFacts(
                name=name,
                quantized=len(quantized.get(name, ())) if has_tensors else told.quantized,
                float_linears=told.float_linears,
                fa=bool(found) if found or told.fa is not None else None,
                fa_roles=found,
                fa_reason=told.fa_reason,
                fa_score=told.fa_score,
                error=told.error,
                accumulated_error=accumulated,
            )
        )
    return tuple(layers)


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if layer := layer_of(name):
            layers[layer].append(name)
    return dict(layers)
