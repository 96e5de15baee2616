"""Finds the published names of a model's tensors through the conversions that transformers itself loads them with."""

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

__all__ = ["published_names"]


@dataclass(frozen=True)
class _Source:
    """A published tensor, and the pattern of the converter that takes it; None if it is only renamed."""

    name: str
    pattern: str | None


def published_names(model: Any, held: Collection[str] | None) -> PublishedNames:
    """Return the names under which a checkpoint that holds the tensors `held` publishes those of `model`.

    Fused experts that the checkpoint publishes one by one are replaced by linears in the model. A model whose own names
    are all held is published under these. Without a checkpoint (None), the names are those that transformers saves.
    """
    expected = set(model.state_dict())
    held = saved_names(model) if held is None else held
    if expected <= set(held):
        return PublishedNames()
    conversions = _Conversions.of(model, expected)
    sources: dict[str, list[_Source]] = defaultdict(list)
    for name in sorted(held, key=_natural):
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
        # The library looks names up in a state dict, and needs only the keys.
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
        targets = (target,) if count == 1 else _siblings(converter, target, model)
        return Conversion(tuple(patterns), targets, partial(_convert, converter, target, patterns, model))


def _convert(
    converter: Any, target: str, patterns: Mapping[str, str], model: Any, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the model's tensors from published ones, by a converter of transformers."""
    converter = copy.deepcopy(converter)  # a converter keeps what it was given
    for name, pattern in patterns.items():
        converter.add_tensor(target, name, pattern, tensors[name])
    made = converter.convert(target, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _siblings(converter: Any, target: str, model: Any) -> tuple[str, ...]:
    """Return all tensors that a converter with several targets makes, of which `target` is the first."""
    first, *others = [pattern.replace("\\", "") for pattern in converter.target_patterns]
    stem = target.removesuffix(first)
    return (target, *(f"{stem}{other}" for other in others))


def _replace_experts(model: nn.Module, path: str, parameters: Mapping[str, list[_Source]]) -> dict[str, str]:
    """Replace fused experts by linears; return the published names of the linears' weights."""
    fused = model.get_submodule(path)
    leaves = {name: list(dict.fromkeys(_linear(source) for source in found)) for name, found in parameters.items()}
    *gate, up = leaves.get("gate_up_proj") or leaves["up_proj"]
    [down] = leaves["down_proj"]
    parent, _, leaf = path.rpartition(".")
    experts = ExpertLinears(fused, gate[0] if gate else None, up, down)
    setattr(model.get_submodule(parent), leaf, experts)
    names = {}
    for source in [source for found in parameters.values() for source in found]:
        number = source.name.rsplit(".", 3)[1]  # as in `experts.3.w1.weight`
        names[f"{path}.{number}.{_linear(source)}.weight"] = source.name
    return names


def _linear(source: _Source) -> str:
    """Return the name of an expert's linear: `w1` of the pattern `.experts.*.w1.weight`."""
    return str(source.pattern).rpartition("*.")[2].removesuffix(".weight").removesuffix("$")


def _rename_by_regex(
    name: str, renamings: list[tuple[str, str]], _: list[Any], __: str, state: Mapping[str, object]
) -> tuple[str, None]:
    """Rename as transformers 4 does: by the first pattern that matches."""
    for pattern, replacement in renamings:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed, None
    return name, None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key in which expert 10 comes after expert 9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
