"""Describes the tensors that transformers would load for the config.json of an export: its float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ExpectedTensors"]


@dataclass(frozen=True)
class ExpectedTensors:
    """The shapes of the float model's tensors by published name; which are tied, which hold integers, which are linears."""

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    """Tensors that share the memory of an earlier one: alias -> first name."""
    integers: frozenset[str]
    linears: frozenset[str]
    """The linears that engines read as int8: not routers, for example."""

    def partners(self, name: str) -> set[str]:
        """Return the other names of a tensor, one of which is stored."""
        first = self.tied.get(name, name)
        return {first, *(alias for alias, of in self.tied.items() if of == first)} - {name}
