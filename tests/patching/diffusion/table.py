"""Renders docs/supported-transformers.md from the results of a survey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["render"]

_HEAD = """# Supported transformers

What `fa3 patch` makes of the transformers of {count} versions of diffusers. `make supported-transformers` makes this file.

**right**: a tiny random one was run before and after the patch, loaded by its pipeline's `from_pretrained`: the same bits
with the quantizers passing states through and with powers of two that differ by role and head; q, k and v once an
attention module a forward; patching twice changes nothing, undoing leaves nothing.
*n of m*: patched by the same general rule and built without weights: n quantizers on m attention modules. It was not run.
*patched*: can't even be built without arguments of its own. *refused*: `fa3 patch` says why, and writes nothing; the
reasons stand below. Empty: not in that version.
"""

Survey = Mapping[str, Mapping[str, Mapping[str, Any]]]


def render(found: Survey) -> str:
    """The whole page."""
    names = sorted({name for outcomes in found.values() for name in outcomes})
    lines = [_line(["transformer", *found]), _line("---" for _ in range(len(found) + 1))]
    lines += [_line([name, *(_mark(outcomes.get(name)) for outcomes in found.values())]) for name in names]
    parts = [_HEAD.format(count=len(found)), _summary(found), "\n".join(lines)]
    parts += ["## Why not", "\n".join(reason for name in names for reason in _reasons(name, found))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _summary(found: Survey) -> str:
    lines = [
        _line(["diffusers", "transformers", "patched", "of these run, right", "wrong"]),
        _line(["---"] * 5),
    ]
    for version, outcomes in found.items():
        patched = [outcome for outcome in outcomes.values() if "refused" not in outcome]
        right = [outcome["right"] for outcome in patched if "right" in outcome]
        lines.append(_line([version, len(outcomes), len(patched), sum(right), len(right) - sum(right)]))
    return "\n".join(lines)


def _mark(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return ""
    if "refused" in outcome:
        return "refused"
    if "right" in outcome:
        return "**right**" if outcome["right"] else "**wrong**"
    return "patched" if "unbuilt" in outcome else f"{outcome['quantizers']} of {outcome['modules']}"


def _reasons(name: str, found: Survey) -> list[str]:
    """Each reason with the versions it is given under."""
    given: dict[str, list[str]] = {}
    for version, outcomes in found.items():
        if "refused" in outcomes.get(name, {}):
            given.setdefault(outcomes[name]["refused"], []).append(version)
    return [f"- {name} ({', '.join(versions)}): {reason}" for reason, versions in given.items()]


def _line(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
