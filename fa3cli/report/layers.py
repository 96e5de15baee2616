"""What became of each layer, from its tensors and from what the run wrote down."""

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
    """Put together what is known of each layer; the tensors have the last word on what is quantized.

    Those that the run visited are layers, where that is known: no text refiner, whose blocks go by such names too. They come in the order of the run, which is not that of their names where there are two kinds of blocks.
    """
    quantized, left_float = _by_layer(matrices.quantized), _by_layer(matrices.left_float)
    roles: dict[str, set[str]] = defaultdict(set)
    for each in scales:
        roles[each.layer].add(each.role)
    names = list(recorded.layers) or sorted({*quantized, *left_float, *roles}, key=module_order)
    if not (errors := recorded.layer_errors) or len(errors) != len(names):
        errors = (None,) * len(names)
    layers = []
    for name, accumulated in zip(names, errors, strict=True):
        # Without a record, a layer counts as one that could have been int8 if others are.
        unexplained = tuple(FloatModule(linear, None) for linear in left_float.get(name, ()))
        could_be = False if roles else None
        untold = RecordedLayer(name, 0, unexplained, could_be, None, None, None, ())
        told = recorded.layers.get(name, untold)
        scaled = tuple(role for role in "qkv" if role in roles.get(name, ()))
        if not has_tensors and told.fa:
            scaled = tuple("qkv")
        layers.append(
            LayerFacts(
                name=name,
                quantized=len(quantized.get(name, ())) if has_tensors else told.quantized,
                float_linears=told.float_linears,
                fa=bool(scaled) if scaled or told.fa is not None else None,
                fa_roles=scaled,
                fa_reason=told.fa_reason,
                fa_score=told.fa_score,
                error=told.error,
                accumulated_error=accumulated,
                timesteps=told.timesteps,
            )
        )
    return tuple(layers)


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if layer := layer_of(name):
            layers[layer].append(name)
    return dict(layers)
