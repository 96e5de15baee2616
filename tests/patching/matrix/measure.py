"""Measure types under a transformers version: the native side, then the patched one, then the verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.patching.matrix.environments import ROOT, command, run_types, variables
from tests.patching.matrix.outcomes import Outcome, outcome

__all__ = ["causal_types", "measure"]

_SIDE = "tests.patching.matrix.side"


def causal_types(version: str) -> list[str]:
    """Every type of MODEL_FOR_CAUSAL_LM_MAPPING_NAMES."""
    call = command(version, _SIDE, "types")
    done = subprocess.run(call, cwd=ROOT, env=variables(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(version: str, types: Sequence[str], folder: Path) -> dict[str, Outcome]:
    """Run both sides of these types; results stay in `folder`, and existing results are not measured again."""
    for side in ("native", "patched"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        call, report = command(version, _SIDE, side, folder), partial(_report, version, side)
        run_types(call, types, folder / side, folder / f"{side}.log", report)
    return {
        model_type: outcome(_result(folder, "native", model_type), _result(folder, "patched", model_type))
        for model_type in types
    }


def _report(version: str, side: str, model_type: str, result: dict) -> None:
    said = result.get("error") or result.get("refused") or "done"
    print(f"{version} {side} {model_type}: {said[:120]}", file=sys.stderr, flush=True)


def _result(folder: Path, side: str, model_type: str) -> dict:
    return json.loads((folder / side / f"{model_type}.json").read_text())
