"""Checks of config.json's quantization_config by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error
from fa3cli.exports.compressed_tensors import (
    FORMATS,
    INPUTS,
    KV_CACHE_SCHEME,
    WEIGHTS,
    differences,
    groups_of,
    short,
)
from fa3cli.exports.contents import Contents

_FILE = "config.json"


@check(
    "quantization-config",
    "vLLM reads from it alone how every linear is stored; vLLM-Ascend reads it instead of the description",
    targets=LANGUAGE,
    needs=("config", "description"),
)
def quantization_config(contents: Contents) -> Iterator[Remark]:
    own = contents.config.data.get("quantization_config")
    if contents.target.description_files:
        yield from _replaced(contents, own)
    elif not isinstance(own, dict):
        yield error(_FILE, f"quantization_config is {short(own)}, expected what compressed-tensors writes")
    else:
        yield from _wrong_method(own)


def _replaced(contents: Contents, own: Any) -> Iterator[Remark]:
    """Say what a quantization_config beside a description leaves out."""
    if own is None:
        return
    if isinstance(own, dict) and own.get("fa_quant_type", "") is None:
        yield error(
            _FILE, "quantization_config has fa_quant_type null, which MindIE takes over the description's"
        )
        return
    missing = [name for name in contents.description if not isinstance(own, dict) or name not in own]
    if missing:
        yield error(
            _FILE,
            f"quantization_config says nothing of {len(missing)} tensors, {missing[0]} first; remove it",
        )


def _wrong_method(own: dict[str, Any]) -> Iterator[Remark]:
    if own.get("quant_method") != "compressed-tensors":
        yield error(_FILE, f"quant_method is {short(own.get('quant_method'))}, expected 'compressed-tensors'")
    if own.get("format") not in FORMATS:
        yield error(_FILE, f"format is {short(own.get('format'))}, expected {' or '.join(FORMATS)}")
    if own.get("quantization_status") != "compressed":
        status = short(own.get("quantization_status"))
        yield error(
            _FILE, f"quantization_status is {status}; transformers takes weights as int8 if 'compressed'"
        )
    groups = own.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        yield error(_FILE, f"config_groups is {short(groups)}, expected groups by name")
    elif not groups_of(own):
        yield error(_FILE, "config_groups has none with weights, so no linear counts as quantized")
    for name, group in groups_of(own).items():
        for part, wanted in (("weights", WEIGHTS), ("input_activations", INPUTS)):
            for problem in differences(group.get(part), wanted):
                yield error(_FILE, f"config_groups.{name}.{part}{problem}")
        targets = group.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            yield error(_FILE, f"config_groups.{name}.targets is {short(targets)}, expected names")


@check(
    "attention-group",
    "vLLM skips a group for q, k and v if its one target is the attention's class; transformers needs it for q",
    targets=("vllm",),
    needs=("config", "weights", "quantization-config"),
)
def attention_group(contents: Contents) -> Iterator[Remark]:
    own = contents.config.data["quantization_config"]
    scheme = own.get("kv_cache_scheme")
    for name, group in own["config_groups"].items():
        if name in groups_of(own):
            continue
        targets, inputs = group.get("targets"), group.get("input_activations")
        if not (isinstance(targets, list) and len(targets) == 1 and str(targets[0]).endswith("Attention")):
            yield error(
                _FILE, f"config_groups.{name}.targets is {short(targets)}, expected one class ...Attention"
            )
        elif isinstance(scheme, dict) and list(
            differences(inputs, {key: scheme.get(key) for key in KV_CACHE_SCHEME})
        ):
            yield error(_FILE, f"config_groups.{name}.input_activations differs from kv_cache_scheme")
