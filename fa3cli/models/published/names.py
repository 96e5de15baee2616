"""Maps a model's modules and tensors to the names under which their checkpoint publishes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Conversion", "PublishedNames"]


@dataclass(frozen=True)
class Conversion:
    """Tensors that transformers makes for a model, `targets`, from published tensors of another layout, `sources`.

    Targets have the model's own names, sources the published ones. `make` takes the sources and returns the targets.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    make: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class PublishedNames:
    """The published name of each module and tensor of a model; without arguments, all names are the model's own.

    `tensors` maps the model's tensors to published names, where these differ. Tensors of `conversions` have no published
    name of their own: they keep the model's.
    """

    def __init__(self, tensors: Mapping[str, str] | None = None, conversions: Sequence[Conversion] = ()) -> None:
        self._tensors = dict(tensors or {})
        self.conversions = tuple(conversions)
        self._modules = _module_names(self._tensors)
        self._tensors |= {target: target for conversion in conversions for target in conversion.targets}

    @property
    def copied_for(self) -> dict[str, tuple[str, ...]]:
        """The published tensors that exports copy in place of each target of a conversion: all for the first target."""
        return {
            target: conversion.sources if target == conversion.targets[0] else ()
            for conversion in self.conversions
            for target in conversion.targets
        }

    def tensor(self, name: str) -> str:
        """Return the published name of a tensor."""
        if name in self._tensors:
            return self._tensors[name]
        module, _, leaf = name.rpartition(".")
        return f"{self.module(module)}.{leaf}" if module else name

    def module(self, path: str) -> str:
        """Return the published name of the module at `path`."""
        if path not in self._modules:
            parent, _, leaf = path.rpartition(".")
            self._modules[path] = f"{self.module(parent)}.{leaf}" if parent else path
        return self._modules[path]


def _module_names(tensors: Mapping[str, str]) -> dict[str, str]:
    """Return the published names of the modules that hold these tensors.

    A module is published under another prefix if the rest of a tensor's name is the same. If its tensors disagree, the
    one with the longest common suffix decides: `mlp.gate.bias` may be published as `mlp.bias_of_gate`.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, published in tensors.items():
        path, other = name.split("."), published.split(".")
        same = 0  # number of equal parts, from the end
        while same < min(len(path), len(other)) and path[-1 - same] == other[-1 - same]:
            same += 1
        # At most one part less than each name has: the empty path is the model itself, which is never renamed.
        for kept in range(1, min(same, len(path) - 1, len(other) - 1) + 1):
            module = ".".join(path[:-kept])
            best = found.get(module)
            if best is None or same > best[0]:
                found[module] = same, ".".join(other[:-kept])
    return {module: published for module, (_, published) in found.items()}
