"""Judges the results of a type under a version, and keeps the outcomes in docs/supported-models.json."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.patching.matrix.reversal import Files

__all__ = ["Outcome", "Version", "outcome", "read", "write"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one type.

    `kind` is equal (patched, and all `checks` say so), refused, wrong (patched, some check fails), unproven (the
    comparison wouldn't have found everything), unmade (transformers itself can't make or run the tiny model).
    `attention` is own (softmax attention in the type's own file), none, composite (parts with a model_type each) or
    unknown.
    """

    kind: str
    attention: str = "unknown"
    reason: str = ""
    checks: int = 0


@dataclass(frozen=True)
class Version:
    """The outcomes of a transformers version: those of its types, and of the patches of all its modeling files."""

    types: dict[str, Outcome]
    files: Files | None = None


def outcome(native: dict[str, Any], patched: dict[str, Any]) -> Outcome:
    """Judge the results of the two sides."""
    runs = [native[implementation] for implementation in ("eager", "sdpa") if implementation in native]
    failed = [run["errors"]["plain"] for run in runs if "plain" in run["errors"]]
    if "error" in native or len(failed) == len(runs):
        return Outcome("unmade", reason=_short_error(native.get("error") or failed[0]))
    own = "own" if any(run["own"] for run in runs) else "none"
    attention = "composite" if native["parts"] else own
    if "refused" in patched:
        return Outcome("refused", attention, _short(patched["refused"]))
    wrong = {name: text for name, text in patched.get("checks", {}).items() if text}
    if "error" in patched or wrong:
        reason = patched.get("error") or "; ".join(f"{name}: {text}" for name, text in wrong.items())
        return Outcome("wrong", attention, reason[:300])
    doubts = [doubt for run in runs for doubt in run["doubts"]]
    if doubts:
        return Outcome("unproven", attention, doubts[0])
    return Outcome("equal", attention, checks=len(patched["checks"]))


def read(path: Path) -> dict[str, Version]:
    """The recorded outcomes by version; empty without the file."""
    told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {
        version: Version(
            {name: Outcome(**of) for name, of in measured["types"].items()}, _read_files(measured["files"])
        )
        for version, measured in told.items()
    }


def write(path: Path, versions: dict[str, Version]) -> None:
    """Write the outcomes, one line per type, versions and types in order."""
    parts = []
    for version, measured in sorted(versions.items(), key=lambda item: _number(item[0])):
        lines = [f"   {json.dumps(name)}: {json.dumps(_told(measured.types[name]))}" for name in sorted(measured.types)]
        types = ",\n".join(lines)
        parts.append(
            f' "{version}": {{\n  "files": {json.dumps(measured.files and asdict(measured.files))},\n  "types": {{\n{types}\n  }}\n }}'
        )
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _read_files(told: dict[str, Any] | None) -> Files | None:
    return Files(told["seen"], told["patched"], tuple(told["wrong"])) if told else None


def _told(measured: Outcome) -> dict[str, Any]:
    return {name: value for name, value in asdict(measured).items() if value}


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _short_error(reason: str) -> str:
    """An error without its file, line and hint, which differ between versions."""
    reason = re.sub(r" \(\w+\.py:\d+\)$", "", reason)
    return re.sub(r"(?<=was not found in your environment)\..*", "", reason)


def _short(reason: str) -> str:
    """A refusal without the folder and the line at its start."""
    return re.sub(r"^\S*?([^/\s]+\.(?:py|json))(?::\d+)?: ", "", reason)
