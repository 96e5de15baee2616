"""Checks values that only some engines require."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fa3cli.exports.checks.modules import linears, static_linears
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error_for, warning
from fa3cli.exports.contents import Contents
from fa3cli.quantization.fallback import FUSED_GROUPS

# Times a difference of two int8 values (9 bits), such a scale is exact in the 24 bits of float32.
_SIGNIFICANT_BITS = 15


def _fused_parents(contents: Contents) -> list[str]:
    return list(dict.fromkeys(module.rpartition(".")[0] for module in linears(contents)))


@check(
    "fused-inputs",
    "vLLM and vLLM-Ascend keep one input scale and offset for q, k, v and for gate, up: those loaded last",
    targets=LANGUAGE,
    over=_fused_parents,
    needs=("description", "weights", "config"),
    after=("foreign-tensors", "described", "linears", "dtypes", "linear-shapes", "scales", "offsets"),
)
def fused_inputs(contents: Contents, module: str) -> Iterator[Remark]:
    for group in FUSED_GROUPS:
        for leaf in ("input_scale", "input_offset", "input_zero_point"):
            names = [f"{module}.{member}.{leaf}" for member in group]
            found = {name: float(contents.read(name)) for name in names if name in contents.tensors}
            if len(set(found.values())) > 1:
                *_, other = (name for name in found if found[name] != found[next(iter(found))])
                message = f"is {found[other]:.6g}, but {found[next(iter(found))]:.6g} in {group[0]}"
                yield error_for(("vllm", "vllm-ascend"), contents, other, message)


@check(
    "scale-bits",
    "vLLM's CUTLASS kernel recomputes the zero point and truncates it: one too low unless the scale is exact",
    targets=("vllm",),
    needs=("weights", "config", "linears", "linear-shapes", "scales"),
)
def scale_bits(contents: Contents) -> Iterator[Remark]:
    names = [f"{module}.input_scale" for module in static_linears(contents)]
    if inexact := [name for name in names if not _fits(float(contents.read(name)))]:
        others = f", and so do {len(inexact) - 1} others" if len(inexact) > 1 else ""
        message = f"has more than {_SIGNIFICANT_BITS} significant bits{others}; quantize in bfloat16 or float16"
        yield warning(inexact[0], message)


def _fits(value: float) -> bool:
    """Tell whether a value has no more than the significant bits that the kernel needs."""
    return math.ldexp(math.frexp(value)[0], _SIGNIFICANT_BITS).is_integer()
