"""Makes the exports of golden cases again and reports differences; runs under the transformers version of the cases.

python -m tests.runs.golden_exports FOLDER CASE...    one json object on stdout: case -> differences
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fa3cli import api, patching
from tests.runs.compared_exports import compare

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


def manifest() -> dict[str, dict[str, Any]]:
    """The cases by name."""
    return {case["name"]: case for case in json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]}


def patched_model(name: str, folder: Path) -> Path:
    """A writable, patched copy of a golden model."""
    if not folder.exists():
        folder.mkdir()
        for file in (GOLDEN / "models" / name).iterdir():
            shutil.copyfile(file, folder / file.name)
        patching.patch(folder)
    return folder


def calibration(name: str, file: Path) -> Path:
    """The inputs of a case as calibration lines."""
    arrays = np.load(GOLDEN / "inputs" / f"{name}.npz")
    count = len(arrays.files) // 2
    lines = (
        {"input_ids": arrays[f"ids_{number}"].tolist(), "attention_mask": arrays[f"mask_{number}"].tolist()}
        for number in range(count)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def export(case: dict[str, Any], root: Path) -> Path:
    """Make the export of a case and return its folder."""
    output = root / case["name"]
    api.quantize(
        patched_model(case["model"], root / case["model"]),
        calib=calibration(case["inputs"], root / f"{case['inputs']}.jsonl"),
        output=output,
        numerics="reference",
        act_method=case["act_method"],
        anti_method=case["anti_method"] or "none",
        fa_amp=case["fa_amp"],
        disable_level=case["disable_level"],
        disable_names=tuple(case["disable_names"]),
        save_types=case["save_type"],
        part_file_size=case["part_file_size"],
    )
    return output


def main() -> None:
    torch.set_num_threads(1)
    root, cases = Path(sys.argv[1]), manifest()
    found = {name: compare(export(cases[name], root), GOLDEN / "cases" / name) for name in sys.argv[2:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
