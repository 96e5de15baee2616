"""Parses dotted module names: their layer, their order, and short forms for display."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["layer_number", "layer_of", "module_order", "number_ranges", "relative_name", "starred_numbers"]


def layer_of(name: str) -> str | None:
    """Return the layer of a module or tensor: `model.layers.3` for `model.layers.3.mlp.up_proj`."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if _is_number(part)), None)
    return None if number is None else ".".join(parts[: number + 1])


def layer_number(layer: str) -> str:
    """Return the last part of a layer's name, which is its number."""
    return layer.rpartition(".")[2]


def relative_name(name: str, layer: str) -> str:
    """Return a module's name within its layer."""
    return name.removeprefix(f"{layer}.")


def starred_numbers(name: str) -> str:
    """Return a name with its numbers replaced by stars: `mlp.experts.*.up_proj`."""
    return ".".join("*" if _is_number(part) else part for part in name.split("."))


def module_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts layer 9 before layer 10."""
    return tuple((1, int(part), "") if _is_number(part) else (0, 0, part) for part in name.split("."))


def number_ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers as text: `0–3, 7`."""
    ordered = sorted(set(numbers))
    runs: list[list[int]] = []
    for number in ordered:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs)


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10
