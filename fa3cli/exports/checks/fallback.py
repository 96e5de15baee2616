"""Checks modules that stay float, which only some engines can load."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, limited
from fa3cli.exports.contents import Contents, modules_around
from fa3cli.exports.layout import W8A8, W8A8_MIX
from fa3cli.quantization.fallback import FUSED_GROUPS
from fa3cli.quantization.schemes import is_expert, mixture_of

_READ = ("description", "weights")
# A number in a module name: the first number is the layer's, later numbers are of experts.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _fused_parents(contents: Contents) -> list[str]:
    firsts = tuple(f".{group[0]}.weight" for group in FUSED_GROUPS)
    return [name.rsplit(".", 2)[0] for name in contents.description if name.endswith(firsts)]


@check(
    "fused-groups",
    "vLLM, vLLM-Ascend and the new MindIE runtime fuse q, k, v and gate, up into one linear",
    targets=LANGUAGE,
    over=_fused_parents,
    needs=_READ,
    after=("foreign-tensors", "values", "linears"),
)
def fused_groups(contents: Contents, module: str) -> Iterator[Remark]:
    for group in FUSED_GROUPS:
        values = {member: contents.description.get(f"{module}.{member}.weight") for member in group}
        kinds = {value for value in values.values() if value is not None}
        if len(kinds) > 1:
            found = ", ".join(f"{member} {value}" for member, value in values.items())
            yield from limited("half-float", contents, module, found)


def _mixtures(contents: Contents) -> list[str]:
    return list(dict.fromkeys(mixture_of(name) for name in contents.description if is_expert(name)))


@check(
    "experts",
    "vLLM and vLLM-Ascend have one scheme for all experts of a layer, whose inputs are quantized at run time",
    targets=LANGUAGE,
    over=_mixtures,
    needs=_READ,
    after=("foreign-tensors", "values", "linears"),
)
def experts(contents: Contents, module: str) -> Iterator[Remark]:
    prefix = f"{module}.experts."
    weights = [name for name in contents.description if name.startswith(prefix) and name.endswith(".weight")]
    values = {contents.description[name] for name in weights}
    if len(values) > 1:
        yield from limited("split-experts", contents, module, f"experts are {' and '.join(sorted(values))}")
    elif values & {W8A8, W8A8_MIX}:
        yield from limited("static-experts", contents, module, f"experts are {values.pop()}")


@check(
    "fa-layers",
    "MindIE refuses a layer without FA3 tensors, mindie-turbo reads uninitialised memory, vLLM computes with 1.0",
    targets=LANGUAGE,
    needs=_READ,
)
def fa_layers(contents: Contents) -> Iterator[Remark]:
    quantized = set(attentions(contents))
    # A module of the same name in another layer has FA3 tensors, so this one could have them.
    patterns = {_NUMBER.sub("*", module, count=1) for module in quantized}
    for module in dict.fromkeys(
        part for name in contents.description for part in modules_around(name.rpartition(".")[0])
    ):
        if module not in quantized and _NUMBER.sub("*", f"{module}.", count=1).removesuffix(".") in patterns:
            yield from limited("partly-fa", contents, module, "has no FA3 tensors, but other layers have")
