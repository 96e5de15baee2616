"""One side of the comparison, in a process and an environment of its own.

    python -m tests.patching.matrix.side types
    python -m tests.patching.matrix.side native|patched FOLDER TYPE...
    python -m tests.patching.matrix.side compare FOLDER/answers/TYPE.pt PATCHED...

Prints the name of a type when it begins, and writes FOLDER/<side>/<type>.json when it ends. A type with unchanged
inputs is not run again. A type that hangs ends the process: the caller continues with the next type.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from tests.patching.matrix import native, patched
from tests.patching.matrix.tiny_models import VARIANTS

SECONDS = 120  # none takes ten


def main() -> None:
    torch.set_num_threads(1)
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # some models print
        for told in {"types": _types, "compare": _compare}.get(sys.argv[1], _run)(*sys.argv[1:]):
            print(told, file=out, flush=True)


def _types(_: str) -> Iterator[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names

    yield json.dumps([*names, *(variant for variant in VARIANTS if variant.split("+")[0] in names)])


def _compare(_: str, answers: str, *folders: str) -> Iterator[str]:
    yield json.dumps({Path(folder).name: patched.compare(Path(folder), Path(answers)) for folder in folders})


def _run(side: str, folder: str, *types: str) -> Iterator[str]:
    Path(folder, side).mkdir(parents=True, exist_ok=True)
    for model_type in types:
        yield model_type
        path = Path(folder, side, f"{model_type}.json")
        known = json.loads(path.read_text()) if path.exists() else {}
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result = _one(side, model_type, Path(folder), {} if "error" in known else known)
        faulthandler.cancel_dump_traceback_later()
        path.write_text(json.dumps(result, indent=1))


def _one(side: str, model_type: str, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Run one type; every error becomes its result."""
    started = time.process_time()
    try:
        run = {"native": native, "patched": patched}[side].run
        result = run(model_type, folder, known)
    except Exception as error:  # noqa: BLE001 - a report on every type
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:400]
        result = {"error": f"{type(error).__name__}: {text} ({Path(at.filename).name}:{at.lineno})"}
    return result if result is known else {"seconds": round(time.process_time() - started, 2), **result}


if __name__ == "__main__":
    main()
