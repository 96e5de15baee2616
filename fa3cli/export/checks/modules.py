"""Which modules an export speaks of, found by the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable

from fa3cli.export.contents import Contents
from fa3cli.export.layout import FA_TENSORS, W8A8, W8A8_TENSORS

__all__ = ["attentions", "is_fa", "is_norm_extra", "linears", "norms", "owner", "stored"]

_NORM_EXTRAS = (".module.weight", ".module.bias")
_FA_SUFFIXES = tuple(f".{tensor}" for tensor in FA_TENSORS)


def stored(contents: Contents) -> list[str]:
    """Tensors that are stored and described."""
    return [name for name in contents.description if name in contents.tensors]


def linears(contents: Contents) -> list[str]:
    """Modules whose weight is W8A8 or that have any tensor only a W8A8 linear has."""
    extras = W8A8_TENSORS[1:]
    return _owners(
        contents,
        lambda name: (
            name.rpartition(".")[2] in extras
            or (
                name.endswith(".weight")
                and contents.description.get(name) == W8A8
                and not is_norm_extra(name)
            )
        ),
    )


def attentions(contents: Contents) -> list[str]:
    """Modules with any FA3 tensor."""
    return _owners(contents, is_fa)


def norms(contents: Contents) -> list[str]:
    """Norms with any of the tensors AntiOutlier adds."""
    return _owners(contents, is_norm_extra)


def is_fa(name: str) -> bool:
    """Whether this is the name of an FA3 tensor."""
    return name.endswith(_FA_SUFFIXES)


def is_norm_extra(name: str) -> bool:
    """Whether this is the name of a tensor AntiOutlier adds beside a norm's own."""
    return name.endswith(_NORM_EXTRAS)


def owner(name: str) -> str:
    """The linear, attention module or norm a tensor belongs to."""
    depth = 2 if is_fa(name) or is_norm_extra(name) else 1
    return name.rsplit(".", depth)[0]


def _owners(contents: Contents, wanted: Callable[[str], bool]) -> list[str]:
    # Description order is module order; sets would shuffle the findings.
    names = list(contents.description) + [
        name for name in contents.tensors if name not in contents.description
    ]
    return list(dict.fromkeys(owner(name) for name in names if wanted(name)))
