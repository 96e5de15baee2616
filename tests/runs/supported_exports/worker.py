"""Runs the whole job for types under this transformers version: `python -m … FOLDER TYPES` writes FOLDER/<type>.json."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from fa3cli import api, patching
from fa3cli.errors import Fa3Error, brief
from tests.patching.matrix.tiny_models import make
from tests.runs.supported_exports.judge import IDS, described, problems

__all__ = ["outcome"]


def outcome(model_type: str, place: Path) -> dict[str, Any]:
    """The outcome of a type: right, refused, wrong, alarm, traceback, or that transformers cannot make or run it."""
    source, folder, export = (place / name for name in ("source", "patched", "export"))
    try:
        with torch.no_grad():
            make(model_type, source).eval()(input_ids=IDS)
    except Exception as error:  # noqa: BLE001 - whatever transformers raises for a type that it cannot run
        return {"kind": "unmade", "why": brief(error)}
    shutil.copytree(source, folder)
    fa, why = None, ""
    try:
        try:
            patching.patch(folder)
        except Fa3Error as error:
            fa, why = False, f"without FA3: {error}"
        (place / "calib.jsonl").write_text(json.dumps({"input_ids": IDS[0].tolist()}) + "\n")
        api.quantize(folder, export, calib=place / "calib.jsonl", anti_method="none", fa=fa)
    except Fa3Error as error:
        return {"kind": "refused", "why": str(error).replace(str(place), "…")}
    except Exception as error:  # noqa: BLE001 - what the table counts
        return {"kind": "traceback", "why": brief(error)}
    if found := list(problems(export, source, place / "dequantized")):
        return {"kind": "wrong", "why": "; ".join(found[:3])}
    errors = [finding for finding in api.verify(export).findings if finding.severity == "error"]
    if errors:
        return {"kind": "alarm", "why": f"{errors[0].subject} {errors[0].message}"}
    return {"kind": "right", "why": why.replace(str(place), "…"), "weights": described(export)}


def main() -> None:
    results, *types = sys.argv[1:]
    for model_type in types:
        print(model_type, flush=True)
        with tempfile.TemporaryDirectory() as place:
            found = outcome(model_type, Path(place))
        Path(results, f"{model_type}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
