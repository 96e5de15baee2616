"""Renders docs/supported-models.md from outcomes."""

from __future__ import annotations

from collections import Counter

from tests.patching.matrix.outcomes import Outcome, Version

__all__ = ["render"]

_MARKS = {"refused": "refused", "wrong": "**wrong**", "unproven": "unproven", "unmade": "–"}

_HEAD = """# Supported models

Every type of `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` under {count} versions of transformers, as measured with tiny random models.
`make supported-models` makes this file; `VERSIONS="4.43.1" TYPES="qwen2 llama"` measures again only what is named.

A number says that the patched model is right, by that many checks against the unpatched one in a process of its own, all
to the last bit: the same keys loaded; logits, caches and attention weights for a prompt, for single tokens with a cache, for
`generate` and with attention weights asked for, each as it is and with a quantizer that multiplies q, k and v by powers of
two that differ by role and head, where the unpatched model multiplies the operands of its attention itself; q, k and v seen
once a forward, as [batch, heads, positions, size]; all of that with eager and sdpa attention; patching twice changes
nothing, and undoing leaves nothing.

*refused*: `fa3 patch` says why, and writes nothing. –: transformers itself can't make or run the model. Empty: not in that
version. The reasons stand below.
"""

_SECTIONS = {
    "own": "## Softmax attention in the type's own file\n\nThese are counted above.",
    "composite": "## Composite models\n\nThese are made of parts that have a `model_type` of their own.",
    "none": "## No softmax attention in the type's own file",
    "unknown": "## Not run\n\ntransformers can't make or run these here.",
}


def render(measured: dict[str, Version]) -> str:
    """The whole page."""
    versions = list(measured)
    rows: dict[str, dict[str, Outcome]] = {}
    for version in versions:
        for name, found in measured[version].types.items():
            rows.setdefault(name, {})[version] = found
    parts = [_HEAD.format(count=len(versions)), _summary(measured), _files(measured)]
    for attention, title in _SECTIONS.items():
        chosen = {name: rows[name] for name in sorted(rows) if _section(rows[name]) == attention}
        if chosen:
            parts += [title, _table(versions, chosen), _reasons(versions, chosen)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _summary(measured: dict[str, Version]) -> str:
    lines = []
    for version, results in measured.items():
        types = [outcome for name, outcome in results.types.items() if "+" not in name]
        own = Counter(outcome.kind for outcome in types if outcome.attention == "own")
        apart = Counter(outcome.attention for outcome in types)
        share = f"{100 * own['equal'] / own.total():.1f} %" if own else ""
        cells = [version, len(types), apart["unknown"], apart["composite"], apart["none"], own.total(), own["equal"],
                 share, own["refused"], own["wrong"] + own["unproven"]]  # fmt: skip
        lines.append(_line(cells))
    head = [
        "transformers",
        "types",
        "not run",
        "composite",
        "no softmax",
        "counted",
        "right",
        "share",
        "refused",
        "wrong",
    ]
    return "\n".join([_line(head), _line("---" for _ in head), *lines])


def _files(measured: dict[str, Version]) -> str:
    """The section on modeling files of all models: how many could be patched and restored."""
    known = [(version, results.files) for version, results in measured.items() if results.files]
    cells = [[version, files.seen, files.patched, len(files.wrong)] for version, files in known]
    head = ["transformers", "modeling files", "patched", "not taken back to the byte, or patched twice"]
    return "\n".join([_line(head), _line("---" for _ in head), *map(_line, cells)])


def _table(versions: list[str], rows: dict[str, dict[str, Outcome]]) -> str:
    lines = [_line([name, *(_mark(row.get(version)) for version in versions)]) for name, row in rows.items()]
    return "\n".join([_line(["type", *versions]), _line("---" for _ in range(len(versions) + 1)), *lines])


def _reasons(versions: list[str], rows: dict[str, dict[str, Outcome]]) -> str:
    """The reasons by type, with the versions that give each reason."""
    lines = []
    for name, row in rows.items():
        given: dict[str, list[str]] = {}
        for version in versions:
            if version in row and row[version].reason:
                given.setdefault(row[version].reason, []).append(version)
        for reason, under in given.items():
            lines.append(f"- {name} ({_span(under, list(row))}): {reason}")
    return "\n".join(lines)


def _section(row: dict[str, Outcome]) -> str:
    """`own` if any version has it so, else the value of the newest version that can run the type."""
    found = {cell.attention for cell in row.values()}
    return next(attention for attention in _SECTIONS if attention in found)


def _span(under: list[str], versions: list[str]) -> str:
    known = [version for version in versions if version in under]
    return "all" if known == versions and len(known) > 1 else ", ".join(known)


def _mark(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return str(outcome.checks) if outcome.kind == "equal" else _MARKS[outcome.kind]


def _line(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
