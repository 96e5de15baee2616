"""Checks of shapes and layers against what config.json promises. No tensor is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from fa3cli.exports.checks.modules import stored
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, error, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.geometry import Geometry

_WITH_CONFIG = ("description", "weights", "config")
# Towers of a composite model have sizes of their own.
_OTHER_TOWER = re.compile(r"(^|\.)(vision|visual|audio|encoder)")
_LAYER = re.compile(r"^(.*?\b(?:layers|h))\.([0-9]{1,9})\.")


@check(
    "config-sizes",
    "the engine builds the model from config.json and then looks for tensors that fit",
    targets=LANGUAGE,
    over=stored,
    needs=_WITH_CONFIG,
    after=("linear-shapes", "fa-shapes", "kv-shapes", "fp8-shapes"),
)
def config_sizes(contents: Contents, name: str) -> Iterator[Remark]:
    shape = contents.tensors[name].shape
    wanted = None if _OTHER_TOWER.search(name) else _sizes(name, len(shape), contents.geometry)
    if wanted is not None and (
        len(shape) != len(wanted) or any(size not in (None, found) for size, found in zip(wanted, shape))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in wanted)
        yield error(name, f"has shape {list(shape)}, config.json asks for [{expected}]")


def _sizes(name: str, ndim: int, model: Geometry) -> tuple[int | None, ...] | None:
    """The shape config.json gives a tensor of so many dimensions, None for what it does not say."""
    queries = model.heads and model.head_dim and model.heads * model.head_dim
    states = model.kv_heads and model.head_dim and model.kv_heads * model.head_dim
    by_suffix: dict[str, tuple[int | None, ...]] = {
        ".q_proj.weight": (queries, model.hidden),
        ".k_proj.weight": (states, model.hidden),
        ".v_proj.weight": (states, model.hidden),
        ".o_proj.weight": (model.hidden, queries),
        # Experts have a width of their own and sit a level deeper.
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
    if name.endswith("_scale") and ndim == 3:
        by_suffix |= {
            ".q_scale": (model.heads, 1, 1),
            ".k_scale": (model.kv_heads, 1, 1),
            ".v_scale": (model.kv_heads, 1, 1),
        }
    return next((shape for suffix, shape in by_suffix.items() if name.endswith(suffix)), None)


@check(
    "layer-count",
    "a layer config.json promises and the weights lack stays uninitialised",
    targets=LANGUAGE,
    needs=_WITH_CONFIG,
)
def layer_count(contents: Contents) -> Iterator[Remark]:
    model, numbers = contents.geometry, _layer_numbers(contents)
    if model.layers is None or len(numbers) != 1:
        return
    [(stack, found)] = numbers.items()
    first_missing = next(number for number in count() if number not in found)
    if first_missing < model.layers:
        yield error(f"{stack}.{first_missing}", f"is missing; config.json says {model.layers} layers")
    if surplus := sorted(number for number in found if number >= model.layers + model.extra_layers):
        yield error(f"{stack}.{surplus[0]}", f"is one layer too many; config.json says {model.layers} layers")


@check(
    "mtp-layers",
    "without its multi-token prediction layers a model can't be served with speculative decoding",
    targets=LANGUAGE,
    needs=(*_WITH_CONFIG, "layer-count"),
)
def mtp_layers(contents: Contents) -> Iterator[Remark]:
    model, numbers = contents.geometry, _layer_numbers(contents)
    for stack, found in numbers.items() if len(numbers) == 1 and model.layers and model.extra_layers else ():
        if max(found) < model.layers:
            yield warning(
                f"{stack}.{model.layers}",
                f"is missing; config.json says {model.extra_layers} prediction layers",
            )


def _layer_numbers(contents: Contents) -> dict[str, set[int]]:
    """The numbers of the layers that are stored or described, by the name of their stack."""
    numbers: dict[str, set[int]] = {}
    for name in contents.names:
        if (layer := _LAYER.match(name)) and not _OTHER_TOWER.search(name):
            numbers.setdefault(layer[1], set()).add(int(layer[2]))
    return numbers
