"""Checks shapes and the number of layers against config.json, without reading tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from fa3cli.exports.checks.modules import linears, stored
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.expected_tensors import ExpectedTensors
from fa3cli.exports.geometry import Geometry

_WITH_CONFIG = ("description", "weights", "config")
# These parts of a composite model have other sizes than its decoder.
_OTHER_TOWER = re.compile(r"(^|\.)(vision|visual|audio|encoder)")
_LAYER = re.compile(r"^(.*?\b(?:layers|h))\.([0-9]{1,9})\.")


@check(
    "config-sizes",
    "engines build the model from config.json, and need tensors of these sizes",
    targets=LANGUAGE,
    over=stored,
    needs=_WITH_CONFIG,
    after=("linear-shapes", "fa-shapes", "kv-shapes", "fp8-shapes"),
)
def config_sizes(contents: Contents, name: str) -> Iterator[Remark]:
    shape, model = contents.tensors[name].shape, contents.float_model
    if model and name in model.shapes:
        if shape != model.shapes[name]:
            expected = ", ".join(map(str, model.shapes[name]))
            yield error(name, f"has shape {list(shape)}, but config.json requires [{expected}]")
        return
    if model and not _usual_heads(model, name, contents.geometry):
        return
    wanted = None if _OTHER_TOWER.search(name) else _sizes(name, len(shape), contents.geometry)
    if wanted is not None and (
        len(shape) != len(wanted) or any(size not in (None, found) for size, found in zip(wanted, shape))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in wanted)
        yield error(name, f"has shape {list(shape)}, but config.json requires [{expected}]")


def _usual_heads(model: ExpectedTensors, name: str, sizes: Geometry) -> bool:
    """Tell whether the projections of a scale's attention have as many rows as the sizes in config.json say."""
    attention = name.rpartition(".fa_")[0] or name.rpartition(".")[0]
    rows = {leaf: model.shapes.get(f"{attention}.{leaf}.weight", (0,))[0] for leaf in ("q_proj", "k_proj")}
    wanted = {"q_proj": sizes.heads, "k_proj": sizes.kv_heads}
    return all(count and sizes.head_dim and rows[leaf] == count * sizes.head_dim for leaf, count in wanted.items())


def _sizes(name: str, ndim: int, model: Geometry) -> tuple[int | None, ...] | None:
    """Return the shape that config.json requires of a tensor with `ndim` dimensions; None where it states no size."""
    queries = model.heads and model.head_dim and model.heads * model.head_dim
    states = model.kv_heads and model.head_dim and model.kv_heads * model.head_dim
    by_suffix: dict[str, tuple[int | None, ...]] = {
        ".q_proj.weight": (queries, model.hidden),
        ".k_proj.weight": (states, model.hidden),
        ".v_proj.weight": (states, model.hidden),
        ".o_proj.weight": (model.hidden, queries),
        # Not `.gate_proj.weight`: experts, one level deeper, have another width.
        ".mlp.gate_proj.weight": (model.intermediate, model.hidden),
        ".mlp.up_proj.weight": (model.intermediate, model.hidden),
        ".mlp.down_proj.weight": (model.hidden, model.intermediate),
        ".fa_q.scale": (model.heads, 1),
        ".fa_k.scale": (model.kv_heads, 1),
        ".fa_v.scale": (model.kv_heads, 1),
        ".kv_cache_scale": (states,),
        ".kv_cache_offset": (states,),
        "embed_tokens.weight": (model.vocab, model.hidden),
        "lm_head.weight": (model.vocab, model.hidden),
        ".input_layernorm.weight": (model.hidden,),
        ".post_attention_layernorm.weight": (model.hidden,),
        "model.norm.weight": (model.hidden,),
    }
    if name.endswith("_scale") and ndim == 3:  # per head; a scale for all heads is [1]
        by_suffix |= {
            ".q_scale": (model.heads, 1, 1),
            ".k_scale": (model.kv_heads, 1, 1),
            ".v_scale": (model.kv_heads, 1, 1),
        }
    return next((shape for suffix, shape in by_suffix.items() if name.endswith(suffix)), None)


@check(
    "tensors",
    "a tensor that the model needs and the export lacks stays uninitialised",
    targets=LANGUAGE,
    needs=_WITH_CONFIG,
    after=("described",),
)
def tensors(contents: Contents) -> Iterator[Remark]:
    if (model := contents.float_model) is None:
        return
    held = contents.tensors.keys()
    missing = [name for name in model.shapes if name not in held and not model.partners(name) & held]
    if missing:
        others = f", and so are {len(missing) - 1} others" if len(missing) > 1 else ""
        yield error(missing[0], f"is missing{others}; the model of config.json needs it")


@check(
    "quantizable",
    "engines read routers, and other modules than the model's linears, as float",
    targets=LANGUAGE,
    over=linears,
    needs=_WITH_CONFIG,
    after=("linears", "values"),
)
def quantizable(contents: Contents, module: str) -> Iterator[Remark]:
    model = contents.float_model
    if model and f"{module}.weight" in model.shapes and module not in model.linears:
        yield error(module, "is quantized, but engines read it as float")


@check(
    "layer-count",
    "a layer of config.json that is missing in the weights stays uninitialised",
    targets=LANGUAGE,
    needs=_WITH_CONFIG,
)
def layer_count(contents: Contents) -> Iterator[Remark]:
    model, numbers = contents.geometry, _layer_numbers(contents)
    if contents.float_model:
        return  # the check `tensors` is exact
    if model.layers is None or len(numbers) != 1:  # num_hidden_layers is the size of a single stack
        return
    [(stack, found)] = numbers.items()
    first_missing = next(number for number in count() if number not in found)
    if first_missing < model.layers:
        yield error(f"{stack}.{first_missing}", f"is missing; config.json has {model.layers} layers")
    if extra := sorted(number for number in found if number >= model.layers + model.extra_layers):
        yield error(f"{stack}.{extra[0]}", f"is an extra layer; config.json has {model.layers} layers")


@check(
    "mtp-layers",
    "without its multi-token prediction layers a model cannot be served with speculative decoding",
    targets=LANGUAGE,
    needs=(*_WITH_CONFIG, "layer-count"),
)
def mtp_layers(contents: Contents) -> Iterator[Remark]:
    model, numbers = contents.geometry, _layer_numbers(contents)
    if len(numbers) != 1 or not model.layers or not model.extra_layers:
        return
    # Checkpoints store them after the other layers, with the following numbers.
    [(stack, found)] = numbers.items()
    if max(found) < model.layers:
        message = f"is missing; config.json has {model.extra_layers} prediction layers"
        yield warning(f"{stack}.{model.layers}", message)


def _layer_numbers(contents: Contents) -> dict[str, set[int]]:
    """Return the numbers of the layers that are stored or described, per stack of layers."""
    numbers: dict[str, set[int]] = {}
    for name in contents.names:
        if (layer := _LAYER.match(name)) and not _OTHER_TOWER.search(name):
            numbers.setdefault(layer[1], set()).add(int(layer[2]))
    return numbers
