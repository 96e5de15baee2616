"""Checks of what stayed float: legal everywhere here, but not every engine takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error_for
from fa3cli.exports.contents import Contents, modules_around
from fa3cli.quantization.fallback import FUSED_GROUPS

_READ = ("description", "weights")
_NEED_ALL = {
    "modelslim": "MindIE and mindie-turbo need all",
    "mindie": "MindIE asserts that all have",
    "vllm-ascend": "vLLM-Ascend up to 0.18 needs all",
    "vllm": "vLLM takes 1.0 for their scales without a word",
}
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
            message = f"{found}: vLLM, vLLM-Ascend and the new MindIE runtime refuse a half-float group"
            yield error_for(("mindie", "vllm-ascend", "vllm"), contents, module, message)


@check(
    "fa-layers",
    "MindIE stops at a layer without FA3 tensors, mindie-turbo reads uninitialised memory, vLLM computes with 1.0",
    targets=LANGUAGE,
    needs=_READ,
)
def fa_layers(contents: Contents) -> Iterator[Remark]:
    quantized = set(attentions(contents))
    patterns = {_NUMBER.sub("*", module, count=1) for module in quantized}
    for module in dict.fromkeys(
        part for name in contents.description for part in modules_around(name.rpartition(".")[0])
    ):
        if module not in quantized and _NUMBER.sub("*", f"{module}.", count=1).removesuffix(".") in patterns:
            message = f"has no FA3 tensors though other layers have: {_NEED_ALL[contents.target.name]}"
            yield error_for(("mindie", "vllm"), contents, module, message)
