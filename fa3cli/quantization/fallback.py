"""Chooses modules that stay float: by name, by disable_level, by fa_amp, and by whole fused groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from fa3cli.errors import InvalidInputError

__all__ = ["FUSED_GROUPS", "fall_back_attentions", "fall_back_linears", "fused_groups", "matching", "whole_groups"]

# Linears of one parent module that vLLM, vLLM-Ascend and the new MindIE runtime fuse into one linear; the last group is
# of latent attention.
FUSED_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("q_a_proj", "kv_a_proj_with_mqa"))


_NONE = {
    "disable_names": "no linear and no attention module of the model",
    "include_names": "no linear of the model that could be quantized",
}


def matching(names: Sequence[str], patterns: Sequence[str], setting: str = "disable_names") -> set[str]:
    """Return the module names that `patterns` (names or globs) select; InvalidInputError if a pattern selects none.

    A pattern after `!` takes the names that it selects out again, if there are any, as in a .gitignore.
    """
    selected: set[str] = set()
    for pattern in patterns:
        # fnmatchcase: fnmatch would ignore case on some systems.
        found = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        if pattern.startswith("!"):
            selected -= found
        elif found:
            selected |= found
        else:
            near = get_close_matches(pattern, names, n=3, cutoff=0.4)
            raise InvalidInputError(
                f"{setting}: {pattern!r} matches {_NONE[setting]}",
                hint=f"the nearest names are {', '.join(near)}" if near else None,
            )
    return selected


def fall_back_linears(range_params: Mapping[str, float], count: int) -> frozenset[str]:
    """Return the `count` linears with the highest range_param, ties in module order (disable_level)."""
    # sorted is stable, also with reverse=True: ties stay in module order.
    return frozenset(sorted(range_params, key=range_params.__getitem__, reverse=True)[:count])


def fall_back_attentions(scores: Mapping[str, float], count: int) -> frozenset[str]:
    """Return the `count` modules with the lowest scores, ties in module order; all of them if `count` is larger."""
    return frozenset(sorted(scores, key=scores.__getitem__)[:count])


def fused_groups(linears: Collection[str]) -> Iterator[frozenset[str]]:
    """Yield the fused groups that have at least two of these linears."""
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in linears):
        for members in FUSED_GROUPS:
            group = {f"{parent}.{member}" for member in members} & set(linears)
            if len(group) > 1:
                yield frozenset(group)


def whole_groups(float_linears: Collection[str], linears: Collection[str]) -> frozenset[str]:
    """Return the linears that stay float and all other linears of their fused groups."""
    return frozenset(float_linears).union(*(group for group in fused_groups(linears) if group & set(float_linears)))
