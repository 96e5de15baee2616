"""Which modules an export speaks of, found by the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable

from fa3cli.exports.contents import Contents
from fa3cli.exports.targets import TARGETS

__all__ = [
    "attentions",
    "is_attention_tensor",
    "is_foreign",
    "is_norm_extra",
    "leaf_of",
    "linears",
    "norms",
    "owner",
    "stored",
]

_NORM_EXTRAS = ("module.weight", "module.bias")
_ATTENTION = tuple(dict.fromkeys(leaf for target in TARGETS.values() for leaf in target.attention_tensors))
_LEAVES = {
    name: frozenset(target.linear_tensors + target.attention_tensors + target.norm_tensors)
    for name, target in TARGETS.items()
}


def stored(contents: Contents) -> list[str]:
    """Tensors that are stored and described."""
    return [name for name in contents.description if name in contents.tensors]


def linears(contents: Contents) -> list[str]:
    """Modules whose weight is quantized or that have any tensor only a quantized linear has."""
    extras, value = contents.target.linear_tensors[1:], contents.target.linear_value

    def quantized(name: str) -> bool:
        leaf = leaf_of(name)
        return leaf in extras or (leaf == "weight" and contents.description.get(name) == value)

    return _owners(contents, quantized)


def attentions(contents: Contents) -> list[str]:
    """Modules with any of the tensors that FA3 gives an attention module for this target."""
    return _owners(contents, lambda name: leaf_of(name) in contents.target.attention_tensors)


def norms(contents: Contents) -> list[str]:
    """Norms with any of the tensors AntiOutlier adds."""
    return _owners(contents, is_norm_extra)


def is_attention_tensor(name: str) -> bool:
    """Whether this is the name of a tensor of FA3, for whichever target."""
    return leaf_of(name) in _ATTENTION


def is_norm_extra(name: str) -> bool:
    """Whether this is the name of a tensor AntiOutlier adds beside a norm's own."""
    return leaf_of(name) in _NORM_EXTRAS


def is_foreign(contents: Contents, name: str) -> bool:
    """Whether this is the name of a tensor that other targets have, and this one hasn't."""
    leaf, own = leaf_of(name), _LEAVES[contents.target.name]
    return leaf not in own and any(leaf in leaves for leaves in _LEAVES.values())


def leaf_of(name: str) -> str:
    """The part of a tensor's name behind its linear, attention module or norm."""
    two = ".".join(name.rsplit(".", 2)[1:])
    return two if two in _ATTENTION + _NORM_EXTRAS else name.rpartition(".")[2]


def owner(name: str) -> str:
    """The linear, attention module or norm a tensor belongs to."""
    return name.removesuffix(leaf_of(name)).removesuffix(".")


def _owners(contents: Contents, wanted: Callable[[str], bool]) -> list[str]:
    # Description order is module order; sets would shuffle the findings.
    names = list(contents.description) + [
        name for name in contents.tensors if name not in contents.description
    ]
    return list(dict.fromkeys(owner(name) for name in names if wanted(name)))
