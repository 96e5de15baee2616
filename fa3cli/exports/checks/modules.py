"""Finds the modules of an export by the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable

from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import W8A8_DYNAMIC
from fa3cli.exports.targets import TARGETS

__all__ = [
    "attentions",
    "float_names",
    "is_attention_tensor",
    "is_foreign",
    "is_norm_extra",
    "leaf_of",
    "linears",
    "model_values",
    "norms",
    "optional_tensors",
    "owner",
    "static_linears",
    "stored",
]

_NORM_EXTRAS = ("module.weight", "module.bias")
_ATTENTION = tuple(dict.fromkeys(leaf for target in TARGETS.values() for leaf in target.attention_tensors))
_ANY_LEAF = frozenset(
    leaf
    for target in TARGETS.values()
    for leaf in target.linear_tensors + target.attention_tensors + target.norm_tensors
)


def stored(contents: Contents) -> list[str]:
    """Return the tensors that are both stored and described."""
    return [name for name in contents.description if name in contents.tensors]


def linears(contents: Contents) -> list[str]:
    """Return the modules with a quantized weight, or with a tensor that only quantized linears have."""
    # Without the first tensor, `weight`, which float modules have too.
    extras = contents.target.linear_tensors[1:]

    def quantized(name: str) -> bool:
        leaf = leaf_of(name)
        return leaf in extras or (leaf == "weight" and contents.description.get(name) in contents.target.values)

    return _owners(contents, quantized)


def model_values(contents: Contents) -> tuple[str, ...]:
    """Return the values of the quantized linears, one of which names the whole model; empty for a float model."""
    values = [contents.description.get(f"{module}.weight") for module in linears(contents)]
    return tuple(value for value in contents.target.values if value in values)


def static_linears(contents: Contents) -> list[str]:
    """Return the quantized modules whose inputs have a stored scale."""
    return [module for module in linears(contents) if contents.description.get(f"{module}.weight") != W8A8_DYNAMIC]


def optional_tensors(contents: Contents, value: str) -> tuple[str, ...]:
    """Return the tensors that linears of a value may lack: the engine does not need them, and no such linear has one."""
    if (key := f"optional {value}") not in contents.cache:
        optional = contents.target.optional_tensors.get(value, ())
        found = any(
            f"{module}.{tensor}" in contents.names
            for module in linears(contents)
            if contents.description.get(f"{module}.weight") == value
            for tensor in optional
        )
        contents.cache[key] = () if found else optional
    tensors: tuple[str, ...] = contents.cache[key]
    return tensors


def float_names(contents: Contents) -> list[str]:
    """Return the names that the tensors of the float model have: without those that quantization adds."""
    extras = {*contents.target.linear_tensors[1:]}
    return [
        name
        for name in contents.names
        if not is_attention_tensor(name) and not is_norm_extra(name) and leaf_of(name) not in extras
    ]


def attentions(contents: Contents) -> list[str]:
    """Return the modules with a tensor that FA3 adds to an attention module for this target."""
    return _owners(contents, lambda name: leaf_of(name) in contents.form.tensors)


def norms(contents: Contents) -> list[str]:
    """Return the norms with a tensor that AntiOutlier adds."""
    return _owners(contents, is_norm_extra)


def is_attention_tensor(name: str) -> bool:
    """Tell whether a name is that of an FA3 tensor, for any target."""
    return leaf_of(name) in _ATTENTION


def is_norm_extra(name: str) -> bool:
    """Tell whether a name is that of a tensor that AntiOutlier adds to a norm."""
    return leaf_of(name) in _NORM_EXTRAS


def is_foreign(contents: Contents, name: str) -> bool:
    """Tell whether a name is that of a tensor that only other targets have."""
    leaf, target = leaf_of(name), contents.target
    return leaf in _ANY_LEAF and leaf not in target.linear_tensors + contents.form.tensors + target.norm_tensors


def leaf_of(name: str) -> str:
    """Return the part of a tensor's name after its linear, attention module or norm."""
    # Such as fa_q.scale, which belongs to the attention module: no module is called fa_q.
    last_two = ".".join(name.rsplit(".", 2)[1:])
    return last_two if last_two in _ATTENTION + _NORM_EXTRAS else name.rpartition(".")[2]


def owner(name: str) -> str:
    """Return the linear, attention module or norm that a tensor belongs to."""
    return name.removesuffix(leaf_of(name)).removesuffix(".")


def _owners(contents: Contents, wanted: Callable[[str], bool]) -> list[str]:
    # The description is in module order; a set would put the findings in a random order.
    names = list(contents.description) + [name for name in contents.tensors if name not in contents.description]
    return list(dict.fromkeys(owner(name) for name in names if wanted(name)))
