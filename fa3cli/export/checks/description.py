"""Checks of the description: one true entry a tensor, and whole modules."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.export.checks.modules import attentions, is_fa, is_norm_extra, linears, norms
from fa3cli.export.checks.registry import Remark, check, error, warning
from fa3cli.export.contents import Contents
from fa3cli.export.layout import FA_QUANT, FA_TENSORS, FLOAT, W8A8, W8A8_TENSORS

_READ = ("description", "weights")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_HEADS = ("lm_head", "embed_out")


@check("quant-types", "they choose the loader of the whole model; null is read in opposite ways", needs=_READ)
def quant_types(contents: Contents) -> Iterator[Remark]:
    settings = contents.settings
    if settings.get("model_quant_type") != W8A8:
        yield error("model_quant_type", f"is {settings.get('model_quant_type')!r}, expected {W8A8!r}")
    if "fa_quant_type" not in settings:
        if attentions(contents):
            yield error("fa_quant_type", f"is missing, but there are FA3 tensors; expected {FA_QUANT!r}")
    elif settings["fa_quant_type"] != FA_QUANT:
        yield error(
            "fa_quant_type", f"is {settings['fa_quant_type']!r}; expected {FA_QUANT!r}, or no such entry"
        )
    elif not attentions(contents):
        yield error("fa_quant_type", f"is {FA_QUANT!r}, but there are no FA3 tensors")


@check("described", "engines look up every tensor: one without an entry is a KeyError at load", needs=_READ)
def described(contents: Contents) -> Iterator[Remark]:
    for name in contents.tensors:
        if name not in contents.description:
            yield error(name, "is stored but not described")
    for name in contents.description:
        if name not in contents.tensors:
            yield from _not_stored(contents, name)
    if not any(_is(name, _HEADS) for name in contents.names) and _is_causal_lm(contents):
        yield error(f"{_HEADS[0]}.weight", "is not described; a tied head is stored once, but described too")


def _not_stored(contents: Contents, name: str) -> Iterator[Remark]:
    """A tied pair is stored once; a config.json that is silent leaves the answer to the model's class."""
    partners = _EMBEDDINGS if _is(name, _HEADS) else _HEADS if _is(name, _EMBEDDINGS) else ()
    tied = (contents.config.data or {}).get("tie_word_embeddings")
    if tied is False or not any(_is(other, partners) for other in contents.tensors):
        yield error(name, "is described but not stored")
    elif tied is not True:
        yield warning(name, "is described but not stored; config.json does not say tie_word_embeddings: true")


@check(
    "values",
    "a value the engine does not know, or of another kind of tensor, picks the wrong loader",
    over=lambda contents: contents.description,
    needs=_READ,
)
def values(contents: Contents, name: str) -> Iterator[Remark]:
    value, kind = contents.description[name], name.rpartition(".")[2]
    if is_fa(name):
        legal: tuple[str, ...] = (FA_QUANT,)
    elif is_norm_extra(name) or kind in W8A8_TENSORS[1:]:
        legal = (W8A8,)
    else:
        legal = (FLOAT, W8A8) if kind == "weight" else (FLOAT,)
    if value not in legal:
        yield error(name, f"is described as {value!r}, expected {' or '.join(legal)}")


@check(
    "linears",
    "a W8A8 linear with a tensor missing, or a FLOAT one with one too many, cannot be built",
    over=linears,
    needs=_READ,
    after=("values",),
)
def whole_linears(contents: Contents, module: str) -> Iterator[Remark]:
    there = [tensor for tensor in W8A8_TENSORS if f"{module}.{tensor}" in contents.names]
    value = contents.description.get(f"{module}.weight")
    if value == W8A8:
        if missing := [tensor for tensor in W8A8_TENSORS if tensor not in there]:
            yield error(module, f"is W8A8 but has no {', '.join(missing)}")
    else:
        extras = [tensor for tensor in there if tensor != "weight"]
        yield error(module, f"has {', '.join(extras)}, but its weight is {value or 'missing'}")


@check("attentions", "an attention module has all six FA3 tensors or none", over=attentions, needs=_READ)
def whole_attentions(contents: Contents, module: str) -> Iterator[Remark]:
    if missing := [tensor for tensor in FA_TENSORS if f"{module}.{tensor}" not in contents.names]:
        yield error(module, f"has FA3 tensors but no {', '.join(missing)}")


@check(
    "norms",
    "a norm AntiOutlier changed is loaded with its weight, bias and both of module.*",
    over=norms,
    needs=_READ,
)
def whole_norms(contents: Contents, module: str) -> Iterator[Remark]:
    wanted = [f"{module}.{tensor}" for tensor in ("weight", "bias", "module.weight", "module.bias")]
    if missing := [name for name in wanted if name not in contents.names]:
        yield error(module, f"has AntiOutlier's tensors but no {', '.join(missing)}")
    shapes = {contents.tensors[name].shape for name in wanted if name in contents.tensors}
    if len(shapes) > 1:
        yield error(module, f"weight, bias, module.weight and module.bias differ in shape: {sorted(shapes)}")


def _is(name: str, modules: tuple[str, ...]) -> bool:
    return name.endswith(tuple(f"{module}.weight" for module in modules))


def _is_causal_lm(contents: Contents) -> bool:
    architectures = (contents.config.data or {}).get("architectures")
    return isinstance(architectures, list) and any(
        str(name).endswith("ForCausalLM") for name in architectures
    )
