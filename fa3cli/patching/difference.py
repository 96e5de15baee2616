"""Why a patch is stale: what two receipts differ in, whatever kind of folder they are of."""

from __future__ import annotations

from typing import Any

__all__ = ["difference"]


def difference(old: Any, new: Any, library: str) -> str | None:
    """What receipts differ in of the options, the version of the `library` they patch, or the rules; None if in none."""
    for name, before in vars(old.options).items():
        after = getattr(new.options, name)
        if before != after:
            return f"patched with --{name} {_plain(before)}, asked for is {_plain(after)}"
    before, after = getattr(old, library), getattr(new, library)
    if before != after:
        return f"patched with {library} {before}, installed is {after}"
    if old.rules != new.rules:
        return f"patched by rules {old.rules}, today's are {new.rules}"
    if changed := sorted(name for name, _ in old.rule_files.items() ^ new.rule_files.items()):
        return f"the rule {changed[0]} has changed"
    return None


def _plain(option: str | tuple[str, ...] | None) -> str:
    return " ".join(option) if isinstance(option, tuple) and option else str(option or "none")
