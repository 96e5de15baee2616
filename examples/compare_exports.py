"""Compares two exports of the same model and settings, say one made on the CPU and one made on an NPU.

    python examples/compare_exports.py EXPORT OTHER [--scales 0.1] [--weights 0.01]

Prints a line for each kind of tensor and exits with 1 where names, dtypes or shapes differ, a value is not finite, a
scale is further off than `--scales` of itself, or more than `--weights` of all int8 weights differ.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fa3cli.numerics.deq_scale import unpack_deq_scale


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("exports", nargs=2, type=Path)
    parser.add_argument("--scales", type=float, default=0.1, help="largest relative difference of a scale")
    parser.add_argument(
        "--weights", type=float, default=0.01, help="largest share of int8 weights that differ"
    )
    arguments = parser.parse_args()
    one, other = map(read, arguments.exports)
    problems = layout_problems(one, other)
    kinds = defaultdict(list)
    for name in one.keys() & other.keys() if not problems else ():
        kinds[kind(name, one[name])].append((values(name, one[name]), values(name, other[name])))
    for each, pairs in sorted(kinds.items()):
        first, second = (torch.cat(side) for side in zip(*pairs))
        differing, furthest = (first != second).double().mean().item(), relative(first, second)
        print(
            f"{each:24} {len(first):10} values, {differing:8.3%} differ, by at most {furthest:.3g} of themselves"
        )
        if not (first.isfinite().all() and second.isfinite().all()):
            problems.append(f"{each}: values that are not finite")
        elif each.endswith("scale") and not furthest <= arguments.scales:
            problems.append(f"{each}: a scale differs by {furthest:.3g} of itself")
        elif each == "int8 weight" and not differing <= arguments.weights:
            problems.append(f"{each}: {differing:.3%} differ")
    print(f"{len(one)} tensors; " + ("; ".join(problems) or "the same names, dtypes and shapes"))
    sys.exit(bool(problems))


def read(export: Path) -> dict[str, Tensor]:
    """Return the tensors of an export, in one file or several."""
    files = sorted(export.glob("*.safetensors"))
    if not files:
        sys.exit(f"{export}: no safetensors here")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def layout_problems(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Say in what names, dtypes and shapes differ."""
    problems = [f"only in one of them: {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        layouts = [(each[name].dtype, tuple(each[name].shape)) for each in (one, other)]
        problems += [f"{name}: {layouts[0]} and {layouts[1]}"] if layouts[0] != layouts[1] else []
    return problems


def kind(name: str, tensor: Tensor) -> str:
    """Return what a tensor is for: the end of its name, and of weights whether they are int8."""
    leaf = ".".join(name.split(".")[-2:]) if ".fa_" in name else name.rpartition(".")[2]
    return f"{str(tensor.dtype).removeprefix('torch.')} {leaf}" if leaf in ("weight", "bias") else leaf


def values(name: str, tensor: Tensor) -> Tensor:
    return (unpack_deq_scale(tensor) if name.endswith("deq_scale") else tensor).flatten().double()


def relative(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two values by the larger of them; two zeros do not differ."""
    larger = torch.maximum(one.abs(), other.abs())
    return ((one - other).abs() / torch.where(larger > 0, larger, 1.0)).max().item()


if __name__ == "__main__":
    main()
