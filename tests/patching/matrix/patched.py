"""The patched side: patch a tiny model, run it with and without scaling quantizers, compare with the native one."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.patching.matrix import factors, forwards, native, watch
from tests.patching.matrix.forwards import WAYS, Answer, answer
from tests.patching.matrix.watch import Watch

__all__ = ["compare", "run"]


def run(model_type: str, root: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Patch a model and compare it with its native answers, unless `known` tells of the same text and answers."""
    from fa3cli.errors import Fa3Error
    from fa3cli.patching import patch, undo

    answered = json.loads((root / "native" / f"{model_type}.json").read_text())
    if "error" in answered:
        return {}  # nothing to compare with
    source, folder = root / "models" / model_type, root / "patched" / f"{model_type}-fa3"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = patch(source, output=folder)
    except Fa3Error as error:
        return {"refused": str(error)}
    [file] = made.files
    sources = [inspect.getsource(part) for part in (factors, forwards, watch, sys.modules[__name__])]
    same = repr((answered["digest"], file.module.read_text(), sources))
    digest = hashlib.sha256(same.encode()).hexdigest()[:16]
    if known.get("digest") == digest:
        return known
    checks = compare(folder, root / "answers" / f"{model_type}.pt")
    again = patch(source, output=folder)
    checks["patched twice"] = None if again.state == "already-patched" else f"it is {again.state}"
    undo(folder)
    checks["undone"] = _leftovers(source, folder)
    return {
        "digest": digest,
        "classes": [found.name for found in file.attention],
        "warnings": list(made.warnings),
        "checks": checks,
    }


def _leftovers(source: Path, folder: Path) -> str | None:
    """What of a patch is still there after it was undone."""
    changed = [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _same(path, source / path.relative_to(folder))
    ]
    return f"{', '.join(changed)} differ" if changed else None


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.read_bytes() == other.read_bytes()


def compare(folder: Path, answers: Path) -> dict[str, str | None]:
    """Every check of a patched folder against a native model's answers, and what is wrong; None if nothing."""
    checks: dict[str, str | None] = {}
    for implementation, kept in torch.load(answers).items():
        found = _compare(folder, kept)
        checks |= {f"{implementation} {name}": wrong for name, wrong in found.items()}
    return checks


def _compare(folder: Path, kept: dict[str, Any]) -> dict[str, str | None]:
    model, info = native.load(folder, kept["implementation"], remote=True)
    watched = Watch(model)
    checks = {
        "loading": None if info == kept["info"] else f"{info}, natively {kept['info']}",
        "quantizers": None if watched.modules else "no module has a fa_quantizer",
    }
    ways = [way for way in WAYS if not isinstance(kept["plain"][way], str)]
    for way in ways:
        checks[way] = _differences(kept["plain"][way], answer(model, way))
    watched.start()
    for way in ways:
        watched.clear()
        checks[f"{way}, scaled"] = _differences(kept["scaled"][way], answer(model, way))
        checks[f"{way}, seen"] = _unseen(kept["seen"][way], watched.states)
        checks[f"{way}, once"] = watched.not_once()
        checks[f"{way}, layout"] = watched.not_bhsd()
    return checks


def _unseen(expected: Counter, got: Counter) -> str | None:
    """Whether attention natively gets the very states the quantizers got."""
    if expected == got:
        return None
    missed = Counter(line.split()[0] for line in expected - got)
    return f"of {expected.total()} states attention gets, the quantizers never saw {dict(missed)}"


def _differences(expected: Answer, got: Answer) -> str | None:
    """What differs, bit by bit."""
    if isinstance(got, str):
        return got[:300]
    if expected.keys() != got.keys():
        return f"other tensors: {sorted(expected.keys() ^ got.keys())}"
    wrong = [path for path in expected if not torch.equal(expected[path], got[path])]
    return f"{', '.join(wrong[:6])} of {len(expected)} differ" if wrong else None
