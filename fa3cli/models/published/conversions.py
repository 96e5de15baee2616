"""Finds the name of each model tensor in the checkpoint, with the conversions of transformers."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fa3cli.models.published.experts import ExpertLinears, can_be_linears
from fa3cli.models.published.names import Conversion, PublishedNames
from fa3cli.models.published.saving import saved_names
from fa3cli.models.temporarily import temporarily

__all__ = ["match_checkpoint"]


@dataclass(frozen=True)
class _Source:
    """A published tensor, and the pattern of the converter that takes it; None if it is only renamed."""

    name: str
    pattern: str | None


def match_checkpoint(model: Any, stored_names: Collection[str] | None) -> PublishedNames:
    """Match a model to a checkpoint with the tensors `stored_names`; return the names of the model's tensors there.

    In the model, fused experts that the checkpoint stores one by one are replaced by linears. If the checkpoint stores
    all of the model's own names, these are its published names. Without a checkpoint (None), the names are those that
    transformers saves.
    """
    expected = set(model.state_dict())
    stored_names = saved_names(model) if stored_names is None else stored_names
    if expected <= set(stored_names):
        return PublishedNames()
    conversions = _Conversions.of(model, expected)
    sources: dict[str, list[_Source]] = defaultdict(list)
    # In natural order: a converter stacks the experts in the order in which it gets them.
    for name in sorted(stored_names, key=_natural):
        target, source = conversions.target(name)
        sources[target].append(source)
    tensors, others = {}, []
    experts: dict[str, dict[str, list[_Source]]] = defaultdict(dict)
    for target, found in sources.items():
        if found[0].pattern is None:
            tensors[target] = found[0].name
        elif conversions.stacks_experts(found[0].pattern) and can_be_linears(model.get_submodule(_parent(target))):
            experts[_parent(target)][target.rpartition(".")[2]] = found
        else:
            others.append((target, found))
    for path, parameters in experts.items():
        tensors |= _replace_experts(model, path, parameters)
    return PublishedNames(tensors, [conversions.conversion(target, found, model) for target, found in others])


class _Conversions:
    """The renamings and converters of transformers 5 for a model, or the renamings of transformers 4."""

    def __init__(
        self, model: Any, expected: set[str], renamings: list[Any], converters: list[Any], rename: Any
    ) -> None:
        self._prefix, self._rename = model.base_model_prefix, rename
        # rename_source_key looks names up in a state dict, and needs only the keys.
        self._expected: dict[str, object] = dict.fromkeys(expected, True)
        self._renamings, self._converters = renamings, converters
        self._by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}

    @classmethod
    def of(cls, model: Any, expected: set[str]) -> _Conversions:
        from transformers import PreTrainedModel

        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightConverter, rename_source_key
        except ImportError:  # transformers 4
            renamings = list(getattr(model, "_checkpoint_conversion_mapping", {}).items())
            return cls(model, expected, renamings, [], _rename_by_regex)
        # A patched class is not of the library, but its tensors are those of the class that it was made from.
        with temporarily(PreTrainedModel, "is_custom_code", lambda *_: False):
            found = get_model_conversion_mapping(model)
        converters = [transform for transform in found if isinstance(transform, WeightConverter)]
        renamings = [transform for transform in found if not isinstance(transform, WeightConverter)]
        return cls(model, expected, renamings, converters, rename_source_key)

    def target(self, name: str) -> tuple[str, _Source]:
        """Return the model's tensor that a published tensor becomes or becomes part of, and the published one."""
        target, pattern = self._rename(name, self._renamings, self._converters, self._prefix, self._expected)
        # If the model has no such tensor, the name is its own: the conversion is for another model of this type.
        return (target, _Source(name, pattern)) if target in self._expected else (name, _Source(name, None))

    def stacks_experts(self, pattern: str) -> bool:
        """Tell whether a converter only stacks matrices of experts and joins gate and up."""
        steps = [type(step).__name__ for step in self._by_pattern[pattern].operations]
        return steps[:1] == ["MergeModulelist"] and set(steps[1:]) <= {"Concatenate"}

    def conversion(self, target: str, sources: Iterable[_Source], model: Any) -> Conversion:
        """Return the conversion of a group of published tensors."""
        patterns = {source.name: str(source.pattern) for source in sources}
        converter = self._by_pattern[next(iter(patterns.values()))]
        count = len(converter.target_patterns)
        targets = (target,) if count == 1 else _siblings(converter, target)
        return Conversion(tuple(patterns), targets, partial(_convert, converter, target, patterns, model))


def _convert(
    converter: Any, target: str, patterns: Mapping[str, str], model: Any, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the model's tensors from published ones, by a converter of transformers."""
    # A copy per call: add_tensor stores the tensors in the converter, which all layers share.
    converter = copy.deepcopy(converter)
    for name, pattern in patterns.items():
        converter.add_tensor(target, name, pattern, tensors[name])
    made = converter.convert(target, model=model, config=model.config)
    # transformers 5.0 returns a pair, the tensors and the errors; later versions return only the tensors.
    made = made[0] if isinstance(made, tuple) else made
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _siblings(converter: Any, target: str) -> tuple[str, ...]:
    """Return all tensors that a converter with several targets makes, of which `target` is the first.

    rename_source_key returns only the first: `self_attn.q_proj.weight` for a published qkv.
    """
    # transformers 5.0 keeps the backslash of an escaped dot in a target pattern; later versions remove it.
    first, *others = [pattern.replace("\\", "") for pattern in converter.target_patterns]
    stem = target.removesuffix(first)
    return (target, *(f"{stem}{other}" for other in others))


def _replace_experts(model: nn.Module, path: str, parameters: Mapping[str, list[_Source]]) -> dict[str, str]:
    """Replace fused experts by linears; return the published names of the linears' weights."""
    fused = model.get_submodule(path)
    leaves = {name: list(dict.fromkeys(_linear(source) for source in found)) for name, found in parameters.items()}
    # The sources are sorted by name, so gate comes before up: gate_proj, up_proj; w1, w3; fc1, fc3.
    *gate, up = leaves.get("gate_up_proj") or leaves["up_proj"]
    [down] = leaves["down_proj"]
    parent, _, leaf = path.rpartition(".")
    experts = ExpertLinears(fused, gate[0] if gate else None, up, down)
    setattr(model.get_submodule(parent), leaf, experts)
    names = {}
    for source in [source for found in parameters.values() for source in found]:
        # Counted from the end: `model.layers.2.mlp.experts.3.w1.weight` has the number of its layer in front.
        number = source.name.rsplit(".", 3)[1]
        names[f"{path}.{number}.{_linear(source)}.weight"] = source.name
    return names


def _linear(source: _Source) -> str:
    """Return the name of an expert's linear: `w1` of the pattern `.experts.*.w1.weight`."""
    # A pattern is a regex, which may end in $.
    return str(source.pattern).rpartition("*.")[2].removesuffix("$").removesuffix(".weight")


def _rename_by_regex(
    source_key: str,
    weight_renamings: list[tuple[str, str]],
    weight_converters: list[Any],
    base_model_prefix: str,
    meta_state_dict: Mapping[str, object],
) -> tuple[str, None]:
    """Rename as transformers 4 does, by the first pattern that matches; same parameters as rename_source_key."""
    for pattern, replacement in weight_renamings:
        renamed, count = re.subn(pattern, replacement, source_key)
        if count:
            return renamed, None
    return source_key, None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key in which expert 10 comes after expert 9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
