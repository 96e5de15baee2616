"""Checks of headers: dtypes and shapes, against each other and against config.json. No tensor is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from fa3cli.export.checks.modules import attentions, is_fa, is_norm_extra, linears, stored
from fa3cli.export.checks.registry import Remark, check, error, warning
from fa3cli.export.contents import Contents
from fa3cli.export.geometry import DTYPES, Geometry
from fa3cli.export.layout import FLOAT

_READ = ("description", "weights")
_WITH_CONFIG = (*_READ, "config")
# Towers of a composite model have sizes of their own.
_OTHER_TOWER = re.compile(r"(^|\.)(vision|visual|audio|encoder)")
_LAYER = re.compile(r"^(.*?\b(?:layers|h))\.(\d+)\.")


@check(
    "dtypes",
    "kernels read raw bytes: the form of deq_scale and of the scales follows config.json's dtype",
    over=stored,
    needs=_WITH_CONFIG,
    after=("values", "linears"),
)
def dtypes(contents: Contents, name: str) -> Iterator[Remark]:
    found, model = contents.tensors[name].dtype, contents.geometry.dtype
    if contents.description[name] != FLOAT:
        legal = _quantized_dtypes(name, model)
        if found not in legal:
            yield error(name, f"is {found}, expected {' or '.join(legal)} in a {model} model")
    elif found not in DTYPES:
        yield error(name, f"is {found}, but described as {FLOAT}")
    elif found != model and name.endswith(".weight"):
        yield warning(name, f"is {found} in a {model} model")


def _quantized_dtypes(name: str, model: str) -> tuple[str, ...]:
    if is_fa(name):
        return ("int8",) if name.endswith(".offset") else (model,)
    if is_norm_extra(name):
        return (model, "float32")
    # A histogram's range is float32, and stays so where float16 could not hold it.
    inputs = (model, "float32") if model == "float16" else (model,)
    return {
        "weight": ("int8",),
        "weight_scale": (model,),
        "weight_offset": (model,),
        "input_scale": inputs,
        "input_offset": inputs,
        "quant_bias": ("int32",),
        "deq_scale": ("float32",) if model == "bfloat16" else ("int64",),
    }[name.rpartition(".")[2]]


@check(
    "linear-shapes",
    "engines copy into buffers of these shapes",
    over=linears,
    needs=_READ,
    after=("described", "linears", "values"),
)
def linear_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    weight = contents.tensors[f"{module}.weight"].shape
    if len(weight) != 2:
        yield error(f"{module}.weight", f"has shape {list(weight)}, expected [out, in]")
        return
    rows = weight[0]
    wanted = {
        "weight_scale": (rows, 1),
        "weight_offset": (rows, 1),
        "input_scale": (1,),
        "input_offset": (1,),
    }
    wanted |= {"quant_bias": (rows,), "deq_scale": (rows,), "bias": (rows,)}
    for tensor, shape in wanted.items():
        header = contents.tensors.get(f"{module}.{tensor}")
        if header and header.shape != shape:
            yield error(f"{module}.{tensor}", f"has shape {list(header.shape)}, expected {list(shape)}")


@check(
    "fa-shapes",
    "engines split the scales by head: one row a head, one column",
    over=attentions,
    needs=_READ,
    after=("described", "attentions", "values"),
)
def fa_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    heads = {name: contents.tensors[f"{module}.fa_{name}.scale"].shape[:1] for name in "qkv"}
    if heads["k"] != heads["v"]:
        yield error(f"{module}.fa_v.scale", f"has {list(heads['v'])} heads and fa_k.scale {list(heads['k'])}")
    for name in "qkv":
        for tensor in (f"{module}.fa_{name}.scale", f"{module}.fa_{name}.offset"):
            shape = contents.tensors[tensor].shape
            if shape != (*heads[name], 1):
                yield error(tensor, f"has shape {list(shape)}, expected [heads, 1], the same as its scale")


@check(
    "config-sizes",
    "the engine builds the model from config.json and then looks for tensors that fit",
    over=stored,
    needs=_WITH_CONFIG,
    after=("linear-shapes", "fa-shapes"),
)
def config_sizes(contents: Contents, name: str) -> Iterator[Remark]:
    wanted = None if _OTHER_TOWER.search(name) else _sizes(name, contents.geometry)
    shape = contents.tensors[name].shape
    if wanted is not None and (
        len(shape) != len(wanted) or any(size not in (None, found) for size, found in zip(wanted, shape))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in wanted)
        yield error(name, f"has shape {list(shape)}, config.json asks for [{expected}]")


def _sizes(name: str, model: Geometry) -> tuple[int | None, ...] | None:
    """The shape config.json gives a tensor, None for what it does not say."""
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
        "embed_tokens.weight": (model.vocab, model.hidden),
        "lm_head.weight": (model.vocab, model.hidden),
        ".input_layernorm.weight": (model.hidden,),
        ".post_attention_layernorm.weight": (model.hidden,),
        "model.norm.weight": (model.hidden,),
    }
    return next((shape for suffix, shape in by_suffix.items() if name.endswith(suffix)), None)


@check(
    "layer-count", "a layer config.json promises and the weights lack stays uninitialised", needs=_WITH_CONFIG
)
def layer_count(contents: Contents) -> Iterator[Remark]:
    model = contents.geometry
    numbers: dict[str, set[int]] = {}
    for name in contents.names:
        if (layer := _LAYER.match(name)) and not _OTHER_TOWER.search(name):
            numbers.setdefault(layer[1], set()).add(int(layer[2]))
    if model.layers is None or len(numbers) != 1:
        return
    [(stack, found)] = numbers.items()
    first_missing = next(number for number in count() if number not in found)
    if first_missing < model.layers:
        yield error(f"{stack}.{first_missing}", f"is missing; config.json says {model.layers} layers")
    if surplus := sorted(number for number in found if number >= model.layers + model.extra_layers):
        yield error(f"{stack}.{surplus[0]}", f"is one layer too many; config.json says {model.layers} layers")
