"""Checks the quantization_config in config.json, without the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error
from fa3cli.exports.compressed_tensors import (
    DYNAMIC_INPUTS,
    FORMATS,
    INPUTS,
    KV_CACHE_SCHEME,
    WEIGHTS,
    differences,
    linear_groups,
    quoted,
)
from fa3cli.exports.contents import Contents

_FILE = "config.json"


@check(
    "quantization-config",
    "vLLM reads only here how linears are stored; vLLM-Ascend reads it instead of the description",
    targets=LANGUAGE,
    needs=("config", "description"),
)
def quantization_config(contents: Contents) -> Iterator[Remark]:
    found = contents.config_data.get("quantization_config")
    if contents.target.description_files:
        yield from _beside_description(contents, found)
    elif not isinstance(found, dict):
        yield error(_FILE, f"quantization_config is {quoted(found)}, expected the object of compressed-tensors")
    else:
        yield from _compressed_tensors(found)


def _beside_description(contents: Contents, found: Any) -> Iterator[Remark]:
    """Report a quantization_config that replaces the description but is incomplete."""
    if found is None:
        return
    if isinstance(found, dict) and found.get("fa_quant_type", "") is None:
        yield error(_FILE, "quantization_config has fa_quant_type null, which MindIE uses instead of the description's")
        return
    missing = [name for name in contents.description if not isinstance(found, dict) or name not in found]
    if missing:
        yield error(_FILE, f"quantization_config omits {len(missing)} tensors, first {missing[0]}; remove it")


def _compressed_tensors(own: dict[str, Any]) -> Iterator[Remark]:
    if own.get("quant_method") != "compressed-tensors":
        yield error(_FILE, f"quant_method is {quoted(own.get('quant_method'))}, expected 'compressed-tensors'")
    if own.get("format") not in FORMATS:
        yield error(_FILE, f"format is {quoted(own.get('format'))}, expected {' or '.join(FORMATS)}")
    if own.get("quantization_status") != "compressed":
        status = quoted(own.get("quantization_status"))
        yield error(
            _FILE, f"quantization_status is {status}; transformers reads int8 weights only if it is 'compressed'"
        )
    groups = own.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        yield error(_FILE, f"config_groups is {quoted(groups)}, expected groups by name")
    elif not linear_groups(own):
        yield error(_FILE, "config_groups has no group with weights, so no linear is quantized")
    for name, group in linear_groups(own).items():
        inputs = group.get("input_activations")
        dynamic = isinstance(inputs, dict) and inputs.get("dynamic") is True
        for part, wanted in (("weights", WEIGHTS), ("input_activations", DYNAMIC_INPUTS if dynamic else INPUTS)):
            for problem in differences(group.get(part), wanted):
                yield error(_FILE, f"config_groups.{name}.{part}{problem}")
        targets = group.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            yield error(_FILE, f"config_groups.{name}.targets is {quoted(targets)}, expected names")


@check(
    "attention-group",
    "vLLM skips a group for q, k, v whose only target is the attention's class; transformers needs it to load q_scale",
    targets=("vllm",),
    needs=("config", "weights", "quantization-config"),
)
def attention_group(contents: Contents) -> Iterator[Remark]:
    own = contents.config_data["quantization_config"]
    scheme = own.get("kv_cache_scheme")
    for name, group in own["config_groups"].items():
        if name in linear_groups(own):
            continue  # the other groups are for attention
        targets, inputs = group.get("targets"), group.get("input_activations")
        if not (isinstance(targets, list) and len(targets) == 1 and str(targets[0]).endswith("Attention")):
            yield error(_FILE, f"config_groups.{name}.targets is {quoted(targets)}, expected one class ...Attention")
        elif isinstance(scheme, dict) and list(differences(inputs, {key: scheme.get(key) for key in KV_CACHE_SCHEME})):
            yield error(_FILE, f"config_groups.{name}.input_activations differs from kv_cache_scheme")
