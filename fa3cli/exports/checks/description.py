"""Checks the entries of the description: one per tensor, with a value that engines know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fa3cli.exports.checks.modules import attentions, is_attention_tensor, is_foreign, is_norm_extra, leaf_of, linears
from fa3cli.exports.checks.registry import ALL, Remark, check, error, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import C8, FA_QUANT, FLOAT, W8A8, model_value

_READ = ("description", "weights")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_HEADS = ("lm_head", "embed_out")
# The values that MindIE accepts.
_GROUP_SIZES = (0, 64, 128, 256)
# Entries for the whole model, per target: required with FA3 tensors, forbidden without.
_MODEL_WIDE: Mapping[str, Mapping[str, str]] = {
    "modelslim": {"fa_quant_type": FA_QUANT},
    "mindie": {"fa_quant_type": FA_QUANT},
    "vllm-ascend": {"kv_cache_type": C8, "kv_quant_type": C8},
    "mindie-sd": {"fa_quant_type": FA_QUANT},
}


@check(
    "foreign-tensors",
    "engines ignore or refuse tensors in the form for another engine",
    targets=ALL,
    over=lambda contents: sorted(contents.names),
    needs=_READ,
)
def foreign_tensors(contents: Contents, name: str) -> Iterator[Remark]:
    if is_foreign(contents, name):
        yield error(name, f"is no tensor of target {contents.target.name}; is this an export for another target?")


@check("quant-types", "these entries select the loader of the model; engines differ in reading null", needs=_READ)
def quant_types(contents: Contents) -> Iterator[Remark]:
    settings, expected = contents.settings, _MODEL_WIDE[contents.target.name]
    values = [contents.description.get(f"{module}.weight") for module in linears(contents)]
    known = [value for value in contents.target.values if value in values]
    of_model = model_value(known) if known else contents.target.value
    if (value := settings.get("model_quant_type")) != of_model:
        yield error("model_quant_type", f"is {value!r}, expected {of_model!r}")
    if contents.target.name == "mindie":
        yield from _refused_by_mindie(settings)
    quantized = bool(attentions(contents))
    # Includes the keys of the other targets, which must be absent.
    for key in dict.fromkeys(key for keys in _MODEL_WIDE.values() for key in keys):
        found, wanted = settings.get(key), expected.get(key)
        if key not in settings:  # not `found is None`: a null entry is an error
            if wanted and quantized:
                yield error(key, f"is missing, but attention modules have scales; expected {wanted!r}")
        elif wanted is None:
            yield error(key, f"is {found!r}; target {contents.target.name} has no such entry")
        elif found != wanted:
            yield error(key, f"is {found!r}; expected {wanted!r}, or no such entry")
        elif not quantized:
            yield error(key, f"is {found!r}, but no attention module has scales")


def _refused_by_mindie(settings: Mapping[str, object]) -> Iterator[Remark]:
    group_size, reduced = settings.get("group_size", 0), settings.get("reduce_quant_type")
    if group_size not in _GROUP_SIZES:
        yield error("group_size", f"is {group_size!r}, expected {', '.join(map(str, _GROUP_SIZES))} or no such entry")
    if reduced not in (None, "per_channel"):
        yield error("reduce_quant_type", f"is {reduced!r}, expected no such entry")


@check("described", "engines look up every tensor: a missing entry is a KeyError at load", needs=_READ)
def described(contents: Contents) -> Iterator[Remark]:
    for name in contents.tensors:
        if name not in contents.description:
            yield error(name, "is stored but not described")
    for name in contents.description:
        if name not in contents.tensors:
            yield from _not_stored(contents, name)
    if model := contents.float_model:
        for alias in model.tied:
            if alias not in contents.description:
                yield error(alias, f"is not described; it is tied to {model.tied[alias]}, and must be described too")
    elif not any(_is_weight(name, _HEADS) for name in contents.names) and _is_causal_lm(contents):
        yield error(f"{_HEADS[0]}.weight", "is not described; a tied head must be described too")


def _not_stored(contents: Contents, name: str) -> Iterator[Remark]:
    """Report a described tensor that is not stored, unless it is tied; only a warning if config.json does not say."""
    if (model := contents.float_model) and name in model.shapes:
        if not model.partners(name) & contents.tensors.keys():
            yield error(name, "is described but not stored")
        return
    partners = _EMBEDDINGS if _is_weight(name, _HEADS) else _HEADS if _is_weight(name, _EMBEDDINGS) else ()
    tied = (contents.config.data or {}).get("tie_word_embeddings")
    if tied is False or not any(_is_weight(other, partners) for other in contents.tensors):
        yield error(name, "is described but not stored")
    elif tied is not True:
        yield warning(name, "is described but not stored; config.json does not say tie_word_embeddings: true")


@check(
    "values",
    "an unknown value, or one for another kind of tensor, selects the wrong loader",
    over=lambda contents: contents.description,
    needs=_READ,
    after=("foreign-tensors",),
)
def values(contents: Contents, name: str) -> Iterator[Remark]:
    value, kind = contents.description[name], leaf_of(name)
    if is_attention_tensor(name):
        allowed: tuple[str, ...] = tuple(set(_MODEL_WIDE[contents.target.name].values()))
    elif is_norm_extra(name) or kind in contents.target.linear_tensors[1:]:
        allowed = (W8A8,) if is_norm_extra(name) else contents.target.values
    else:
        allowed = (FLOAT, *contents.target.values) if kind == "weight" else (FLOAT,)
    if value not in allowed:
        yield error(name, f"is described as {value!r}, expected {' or '.join(allowed)}")


@check("embeddings", "a missing embedding or head has random values", targets=("vllm",), needs=_READ)
def embeddings(contents: Contents) -> Iterator[Remark]:
    if contents.float_model:
        return  # the check `tensors` is exact
    tied = (contents.config.data or {}).get("tie_word_embeddings")
    for modules, required in ((_EMBEDDINGS, True), (_HEADS, tied is False)):
        if _is_causal_lm(contents) and not any(_is_weight(name, modules) for name in contents.tensors):
            message = "is missing" + (", and config.json does not tie it" if modules is _HEADS else "")
            if required:
                yield error(f"{modules[0]}.weight", message)
            elif tied is None:
                yield warning(f"{modules[0]}.weight", message)


def _is_weight(name: str, modules: tuple[str, ...]) -> bool:
    return name.endswith(tuple(f"{module}.weight" for module in modules))


def _is_causal_lm(contents: Contents) -> bool:
    architectures = (contents.config.data or {}).get("architectures")
    return isinstance(architectures, list) and any(str(name).endswith("ForCausalLM") for name in architectures)
