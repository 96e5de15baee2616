"""Checks the entries of the description for tensors: one per tensor, with a value that engines know."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import is_attention_tensor, is_foreign, is_norm_extra, leaf_of
from fa3cli.exports.checks.registry import ALL, Remark, check, error, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import FLOAT, W8A8

_READ = ("description", "weights")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_HEADS = ("lm_head", "embed_out")


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
        allowed: tuple[str, ...] = (contents.form.value,)
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
