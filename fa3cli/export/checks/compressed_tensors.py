"""Checks of config.json's quantization_config as vLLM and transformers read it, against the tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fa3cli.export.checks.modules import attentions, linears
from fa3cli.export.checks.registry import Remark, check, error, warning
from fa3cli.export.contents import Contents
from fa3cli.export.layout import FLOAT

_FILE = "config.json"
_VLLM = ("vllm",)
_NEEDS = ("config", "weights")
# The formats under which vLLM looks at how activations are quantized.
_FORMATS = ("int-quantized", "naive-quantized")
_INT8 = {"num_bits": 8, "type": "int", "dynamic": False}
_WEIGHTS = {**_INT8, "symmetric": True, "strategy": ("channel", "tensor")}
_INPUTS = {**_INT8, "symmetric": False, "strategy": ("tensor",)}
_SCHEME = {
    "num_bits": 8,
    "type": "float",
    "dynamic": False,
    "symmetric": True,
    "strategy": ("attn_head", "tensor"),
}
# Linears of a decoder by the end of their name; of other matrices only the model's class knows what they are.
_LINEAR = re.compile(r"(_proj|lm_head|\.(fc1|fc2|c_attn|c_proj|c_fc|query_key_value|dense))$")


@check(
    "quantization-config",
    "vLLM reads from it alone how every linear is stored; vLLM-Ascend reads it instead of the description",
    targets=("modelslim", "mindie", "vllm-ascend", "vllm"),
    needs=("config", "description"),
)
def quantization_config(contents: Contents) -> Iterator[Remark]:
    own = contents.config.data.get("quantization_config")
    if contents.target.description_files:
        yield from _replaced(contents, own)
    elif not isinstance(own, dict):
        yield error(_FILE, f"quantization_config is {_short(own)}, expected what compressed-tensors writes")
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
        yield error(
            _FILE, f"quant_method is {_short(own.get('quant_method'))}, expected 'compressed-tensors'"
        )
    if own.get("format") not in _FORMATS:
        yield error(_FILE, f"format is {_short(own.get('format'))}, expected {' or '.join(_FORMATS)}")
    if own.get("quantization_status") != "compressed":
        status = _short(own.get("quantization_status"))
        yield error(
            _FILE, f"quantization_status is {status}; transformers takes weights as int8 if 'compressed'"
        )
    groups = own.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        yield error(_FILE, f"config_groups is {_short(groups)}, expected groups by name")
    elif not _groups(own):
        yield error(_FILE, "config_groups has none with weights, so no linear counts as quantized")
    for name, group in _groups(own).items():
        for part, wanted in (("weights", _WEIGHTS), ("input_activations", _INPUTS)):
            for problem in _differences(group.get(part), wanted):
                yield error(_FILE, f"config_groups.{name}.{part}{problem}")
        targets = group.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            yield error(_FILE, f"config_groups.{name}.targets is {_short(targets)}, expected names")


@check(
    "attention-group",
    "vLLM skips a group for q, k and v if its one target is the attention's class; transformers needs it for q",
    targets=_VLLM,
    needs=(*_NEEDS, "quantization-config"),
)
def attention_group(contents: Contents) -> Iterator[Remark]:
    own = contents.config.data["quantization_config"]
    scheme = own.get("kv_cache_scheme")
    for name, group in own["config_groups"].items():
        if name in _groups(own):
            continue
        targets, inputs = group.get("targets"), group.get("input_activations")
        if not (isinstance(targets, list) and len(targets) == 1 and str(targets[0]).endswith("Attention")):
            yield error(
                _FILE, f"config_groups.{name}.targets is {_short(targets)}, expected one class ...Attention"
            )
        elif isinstance(scheme, dict) and list(
            _differences(inputs, {key: scheme.get(key) for key in _SCHEME})
        ):
            yield error(_FILE, f"config_groups.{name}.input_activations differs from kv_cache_scheme")


@check(
    "weight-strategy",
    "the engine makes room for one scale a linear or for one a row, as config.json says",
    targets=_VLLM,
    over=linears,
    needs=(*_NEEDS, "quantization-config"),
    after=("foreign-tensors", "linears"),
)
def weight_strategy(contents: Contents, module: str) -> Iterator[Remark]:
    strategies = {
        group["weights"]["strategy"]
        for group in _groups(contents.config.data["quantization_config"]).values()
        if any(target == "Linear" or _matches(target, module) for target in group["targets"])
    }
    shape = contents.tensors[f"{module}.weight_scale"].shape
    if not strategies:
        yield error(module, "is quantized, but no group of config_groups has it as a target")
    elif strategies != {"tensor" if shape == (1,) else "channel"}:
        yield error(
            f"{module}.weight_scale", f"has shape {list(shape)}, but its strategy is {strategies.pop()}"
        )


@check(
    "ignore",
    "a float linear it leaves out is looked for in int8, a quantized one it names is read as float",
    targets=_VLLM,
    needs=(*_NEEDS, "quantization-config", "linears"),
)
def ignore(contents: Contents) -> Iterator[Remark]:
    patterns = contents.config.data["quantization_config"].get("ignore")
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        yield error(_FILE, f"ignore is {_short(patterns)}, expected a list of names")
        return
    quantized = set(linears(contents))
    for module in quantized:
        if any(_matches(pattern, module) for pattern in patterns):
            yield error(module, "is quantized, but ignore names it")
    kinds = {module.rpartition(".")[2] for module in quantized}
    for name, header in contents.tensors.items():
        module = name.removesuffix(".weight")
        if module == name or len(header.shape) != 2 or contents.description[name] != FLOAT or "emb" in module:
            continue
        if not any(_matches(pattern, module) for pattern in patterns):
            if _LINEAR.search(module) or module.rpartition(".")[2] in kinds:
                yield error(module, "is float, but ignore does not name it")
            else:
                yield warning(module, "is float, and ignore does not name it; if it is a linear, it must")


@check(
    "kv-cache-scheme",
    "without it the scales of q, k and v are unknown tensors, with it and without them they are 1.0",
    targets=_VLLM,
    needs=(*_NEEDS, "quantization-config"),
)
def kv_cache_scheme(contents: Contents) -> Iterator[Remark]:
    scheme = contents.config.data["quantization_config"].get("kv_cache_scheme")
    modules = attentions(contents)
    if scheme is None:
        if modules:
            yield error(_FILE, "has no kv_cache_scheme, but attention modules have scales")
        return
    if not modules:
        yield error(_FILE, "has a kv_cache_scheme, but no attention module has scales")
    for problem in _differences(scheme, _SCHEME):
        yield error(_FILE, f"kv_cache_scheme{problem}")


def _groups(own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups that speak of linears; one without weights is about attention."""
    groups = own.get("config_groups")
    every = groups if isinstance(groups, dict) else {}
    return {
        name: group
        for name, group in every.items()
        if isinstance(group, dict) and group.get("weights") is not None
    }


def _differences(found: Any, wanted: dict[str, Any]) -> Iterator[str]:
    """Yield how a quantization's arguments differ from `wanted`, whose tuples are alternatives."""
    if not isinstance(found, dict):
        yield f" is {_short(found)}, expected the arguments of a quantization"
        return
    for key, expected in wanted.items():
        value, legal = found.get(key), expected if isinstance(expected, tuple) else (expected,)
        if not any(value == each and type(value) is type(each) for each in legal):
            yield f": {key} is {_short(value)}, expected {' or '.join(map(repr, legal))}"


def _matches(pattern: str, module: str) -> bool:
    """Whether a name, or a regular expression behind `re:`, means this module."""
    if not pattern.startswith("re:"):
        return pattern == module
    try:
        return re.match(pattern.removeprefix("re:"), module) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."
