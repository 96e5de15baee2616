"""Checks the shapes of the tensors that FA3 adds to attention modules, per target."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import Remark, check, error
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import C8, FA_TENSORS

_READ = ("description", "weights")
_AFTER = ("foreign-tensors", "described", "attentions", "values")


def _heads_attentions(contents: Contents) -> list[str]:
    """Return the attention modules with FA3's scales per head."""
    return attentions(contents) if contents.form.tensors == FA_TENSORS else []


def _channel_attentions(contents: Contents) -> list[str]:
    """Return the attention modules with scales per channel, for an int8 KV cache."""
    return attentions(contents) if contents.form.value == C8 else []


@check(
    "fa-shapes",
    "engines split the scales by head: one row per head, one column",
    over=_heads_attentions,
    needs=_READ,
    after=_AFTER,
)
def fa_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    heads = {name: contents.tensors[f"{module}.fa_{name}.scale"].shape[:1] for name in "qkv"}
    if contents.form.latent:
        heads = {"q": (contents.geometry.latent_heads or 0,), "k": (1,), "v": (1,)}
    elif heads["k"] != heads["v"]:
        yield error(f"{module}.fa_v.scale", f"has {list(heads['v'])} heads, fa_k.scale {list(heads['k'])}")
    for name in "qkv":
        for tensor in (f"{module}.fa_{name}.scale", f"{module}.fa_{name}.offset"):
            shape = contents.tensors[tensor].shape
            if shape != (wanted := (*heads[name], 1)):
                expected = f"{list(wanted)}" if contents.form.latent else "[heads, 1], like its scale"
                yield error(tensor, f"has shape {list(shape)}, expected {expected}")


@check(
    "fa-heads",
    "MindIE-SD reads one row per head; the guide's tool writes one row per token",
    targets=("mindie-sd",),
    over=attentions,
    needs=(*_READ, "config"),
    after=(*_AFTER, "fa-shapes"),
)
def fa_heads(contents: Contents, module: str) -> Iterator[Remark]:
    heads, width = contents.geometry.heads, contents.geometry.head_dim
    for role in "qkv":
        scale, linear = f"{module}.fa_{role}.scale", f"{module}.to_{role}.weight"
        found, rows = contents.tensors[scale].shape[0], _rows(contents, linear)
        # Grouped-query attention: k and v may have fewer heads than q.
        shared = role != "q" and width and rows == found * width
        if heads and found != heads and not shared:
            yield error(scale, f"has {found} rows, but config.json says {heads} heads")
        elif rows and not heads and (not found or rows % found):
            yield error(scale, f"has {found} rows, which do not divide the {rows} rows of {linear}")
        elif rows and heads and width and role == "q" and rows != heads * width:
            yield error(scale, f"has {found} heads of {width} channels, but {linear} has {rows} rows")


def _rows(contents: Contents, name: str) -> int | None:
    header = contents.tensors.get(name)
    return header.shape[0] if header and header.shape else None


@check(
    "kv-shapes",
    "vLLM-Ascend splits the scales of its KV cache as it splits the rows of k_proj and v_proj",
    targets=("vllm-ascend",),
    over=_channel_attentions,
    needs=_READ,
    after=_AFTER,
)
def kv_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    for leaf in contents.form.tensors:
        name = f"{module}.{leaf}"
        # The linear may be float or int8: its weight has one row per channel either way.
        linear = contents.tensors.get(f"{name.rpartition('.')[0]}.weight")
        wanted, shape = linear and linear.shape[:1], contents.tensors[name].shape
        if len(shape) != 1 or (wanted and shape != wanted):
            yield error(name, f"has shape {list(shape)}, expected {list(wanted or ['channels'])}")


@check(
    "fp8-shapes",
    "vLLM reserves one scale per head or one for all heads, as kv_cache_scheme says",
    targets=("vllm",),
    over=attentions,
    needs=("weights", "config", "quantization-config", "kv-cache-scheme"),
    after=_AFTER,
)
def fp8_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    # Present and valid: the checks in `needs` passed, and this one runs only for modules with scales.
    scheme = contents.config_data["quantization_config"]["kv_cache_scheme"]
    for leaf in contents.form.tensors:
        shape = contents.tensors[f"{module}.{leaf}"].shape
        if scheme["strategy"] == "tensor":
            right, wanted = shape == (1,), "[1]"
        else:
            right, wanted = len(shape) == 3 and shape[1:] == (1, 1), "[heads, 1, 1]"
        if not right:
            yield error(f"{module}.{leaf}", f"has shape {list(shape)}, expected {wanted}")
