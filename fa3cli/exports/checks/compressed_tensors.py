"""Checks that the tensors agree with the quantization_config of compressed-tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions, linears
from fa3cli.exports.checks.registry import Remark, check, error, warning
from fa3cli.exports.compressed_tensors import KV_CACHE_SCHEME, differences, group_of, matches, quoted
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import FLOAT

_FILE = "config.json"
_VLLM = ("vllm",)
_NEEDS = ("config", "weights")
# Ends of the names of a decoder's linears; other matrices may be linears too, but only the model's class tells.
_LINEAR = re.compile(r"(_proj|lm_head|\.(fc1|fc2|c_attn|c_proj|c_fc|query_key_value|dense))$")


@check(
    "weight-strategy",
    "vLLM reserves one scale per linear or one per row, as config.json says",
    targets=_VLLM,
    over=linears,
    needs=(*_NEEDS, "quantization-config"),
    after=("foreign-tensors", "linears"),
)
def weight_strategy(contents: Contents, module: str) -> Iterator[Remark]:
    group = group_of(contents.config_data["quantization_config"], module)
    if group is None:
        yield error(module, "is quantized, but is no target of any group in config_groups")
        return
    shape, strategy = contents.tensors[f"{module}.weight_scale"].shape, group["weights"]["strategy"]
    if strategy != ("tensor" if shape == (1,) else "channel"):
        yield error(f"{module}.weight_scale", f"has shape {list(shape)}, but its strategy is {strategy}")
    dynamic, scale = group["input_activations"]["dynamic"], f"{module}.input_scale"
    if dynamic and scale in contents.tensors:
        yield error(scale, "is stored, but config_groups says that inputs are quantized at run time")
    elif not dynamic and scale not in contents.tensors:
        yield error(scale, "is missing, but config_groups says that inputs have a stored scale")


@check(
    "ignore",
    "vLLM reads a float linear that `ignore` omits as int8, and a quantized linear that it lists as float",
    targets=_VLLM,
    needs=(*_NEEDS, "quantization-config", "linears"),
)
def ignore(contents: Contents) -> Iterator[Remark]:
    patterns = contents.config_data["quantization_config"].get("ignore")
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        yield error(_FILE, f"ignore is {quoted(patterns)}, expected a list of names")
        return
    quantized = set(linears(contents))
    for module in quantized:
        if any(matches(pattern, module) for pattern in patterns):
            yield error(module, "is quantized, but ignore names it")
    # Float matrices with the leaf name of a quantized linear are linears too.
    kinds = {module.rpartition(".")[2] for module in quantized}
    for name, header in contents.tensors.items():
        module = name.removesuffix(".weight")
        # A float matrix that is no embedding may be a linear.
        if module == name or len(header.shape) != 2 or contents.description[name] != FLOAT or "emb" in module:
            continue
        if not any(matches(pattern, module) for pattern in patterns):
            if _LINEAR.search(module) or module.rpartition(".")[2] in kinds:
                yield error(module, "is float, but ignore does not name it")
            else:
                yield warning(module, "is float, but ignore does not name it; it must if this is a linear")


@check(
    "kv-cache-scheme",
    "without kv_cache_scheme, the scales of q, k and v are unknown tensors; with it, missing scales are 1.0",
    targets=_VLLM,
    needs=(*_NEEDS, "quantization-config"),
)
def kv_cache_scheme(contents: Contents) -> Iterator[Remark]:
    scheme = contents.config_data["quantization_config"].get("kv_cache_scheme")
    modules = attentions(contents)
    if scheme is None:
        if modules:
            yield error(_FILE, "has no kv_cache_scheme, but attention modules have scales")
        return
    if not modules:
        yield error(_FILE, "has a kv_cache_scheme, but no attention module has scales")
    for problem in differences(scheme, KV_CACHE_SCHEME):
        yield error(_FILE, f"kv_cache_scheme{problem}")
