"""Compares two exports of the same model and settings, for example one from the CPU and one from an NPU.

    python examples/compare_exports.py EXPORT OTHER [--scales 0.1] [--weights 0.01]

Prints a line per kind of tensor. Exits with 1 if names, dtypes or shapes differ, if a value is not finite, if a scale
has a relative difference above `--scales`, or if more than the share `--weights` of all int8 weights differ.
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
    parser.add_argument("--weights", type=float, default=0.01, help="largest share of int8 weights that differ")
    arguments = parser.parse_args()
    one, other = map(read, arguments.exports)
    problems = layout_problems(one, other)
    pairs_of = defaultdict(list)
    for name in one.keys() & other.keys() if not problems else ():
        pairs_of[kind_of(name, one[name])].append((values(name, one[name]), values(name, other[name])))
    for kind, pairs in sorted(pairs_of.items()):
        first, second = (torch.cat(side) for side in zip(*pairs))
        differing, largest = (first != second).double().mean().item(), largest_difference(first, second)
        print(f"{kind:24} {len(first):10} values, {differing:8.3%} differ, relatively by at most {largest:.3g}")
        if not (first.isfinite().all() and second.isfinite().all()):
            problems.append(f"{kind}: values that are not finite")
        elif kind.endswith("scale") and not largest <= arguments.scales:
            problems.append(f"{kind}: a scale differs relatively by {largest:.3g}")
        elif kind == "int8 weight" and not differing <= arguments.weights:
            problems.append(f"{kind}: {differing:.3%} differ")
    print(f"{len(one)} tensors; " + ("; ".join(problems) or "the same names, dtypes and shapes"))
    sys.exit(bool(problems))


def read(export: Path) -> dict[str, Tensor]:
    """Return the tensors of an export, from one file or several."""
    files = sorted(export.glob("*.safetensors"))
    if not files:
        sys.exit(f"{export}: holds no safetensors files")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def layout_problems(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return sentences about names, dtypes and shapes that differ."""
    problems = [f"only in one of them: {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        layouts = [(tensors[name].dtype, tuple(tensors[name].shape)) for tensors in (one, other)]
        problems += [f"{name}: {layouts[0]} and {layouts[1]}"] if layouts[0] != layouts[1] else []
    return problems


def kind_of(name: str, tensor: Tensor) -> str:
    """Return the kind of a tensor: the end of its name, and the dtype of weights and biases."""
    leaf = ".".join(name.split(".")[-2:]) if ".fa_" in name else name.rpartition(".")[2]
    return f"{str(tensor.dtype).removeprefix('torch.')} {leaf}" if leaf in ("weight", "bias") else leaf


def values(name: str, tensor: Tensor) -> Tensor:
    # exports of float16 and float32 models store the bits of a float32 deq_scale as int64
    return (unpack_deq_scale(tensor) if name.endswith("deq_scale") else tensor).flatten().double()


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two values, relative to the larger of both; two zeros do not differ."""
    larger = torch.maximum(one.abs(), other.abs())
    return ((one - other).abs() / torch.where(larger > 0, larger, 1.0)).max().item()


if __name__ == "__main__":
    main()
