"""Writes the table of limits in docs/targets.md: `python -m tests.exports.limits_table`."""

from __future__ import annotations

import re

from fa3cli.exports.limits import LIMITS, Verdict
from fa3cli.exports.target_names import TARGET_NAMES
from tests.conftest import ROOT

__all__ = ["DOCUMENT", "with_table"]

DOCUMENT = ROOT / "docs" / "targets.md"
_BLOCK = re.compile(r"(?s)(?<=<!-- limits -->\n).*?(?=<!-- end of limits -->)")


def with_table(text: str) -> str:
    """The document with a table of today's limits: one row per request, one column per target."""
    rows = [("what was asked for", *TARGET_NAMES), ("---",) * (1 + len(TARGET_NAMES))]
    rows += [(limit.asked, *(_cell(limit.says.get(name)) for name in TARGET_NAMES)) for limit in LIMITS.values()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return _BLOCK.sub(lambda _: table, text)


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return ": ".join(filter(None, ["refuses" if verdict.refuses else "warns", verdict.why]))


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
