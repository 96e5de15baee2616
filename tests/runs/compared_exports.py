"""Lists the differences between exports of fa3 and msModelSlim of the same case, and the allowed ones."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.export_files import WEIGHT_FILE

DESCRIPTION = "quant_model_description_w8a8.json"
NORMS = "anti_fp_norm.npy"
# In quant_weight.npy of msModelSlim, a bias replaces its weight, and a norm that of AntiOutlier.
_WRONG_THERE = ("norm", ".q_proj", ".k_proj", ".v_proj", ".bias")


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Whether the descriptions are equal, which files fa3 lacks, and by file the tensors of another layout or bits."""
    described = [list(json.loads((side / DESCRIPTION).read_text()).items()) for side in (ours, theirs)]
    files = {WEIGHT_FILE: load_file, **{file.name: _read_numpy for file in sorted(theirs.glob("*.npy"))}}
    missing = [file for file in files if not (ours / file).is_file()]
    return {
        "description": described[0] == described[1],
        "missing": missing,
        "renames norms": any(name.endswith("norm.module.weight") for name, _ in described[1]),
        "tensors": {
            file: _differences(read(ours / file), read(theirs / file))
            for file, read in files.items()
            if file not in missing
        },
    }


def _read_numpy(file: Path) -> dict[str, Tensor]:
    return np.load(file, allow_pickle=True).item()


def _differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, list[str]]:
    layout, bits = found.keys() ^ expected.keys(), set()
    for name in found.keys() & expected.keys():
        if (found[name].dtype, found[name].shape) != (expected[name].dtype, expected[name].shape):
            layout.add(name)
        elif not torch.equal(found[name], expected[name]):
            bits.add(name)
    return {"layout": sorted(layout), "bits": sorted(bits)}


def assert_same_layout(case: str, found: dict[str, Any]) -> None:
    """Descriptions, keys, dtypes and shapes are equal, and so are the linears and attentions left float."""
    assert found["description"], case
    # It writes the norms there even where they keep their names; ours are in quant_weight.npy then.
    assert found["missing"] in ([], [NORMS]) and not (found["missing"] and found["renames norms"]), case
    _assert_none(case, found, "layout")


def assert_same_bits(case: str, found: dict[str, Any], may_differ: Collection[str] = ()) -> None:
    """Every bit is equal, except in tensors of the safetensors whose names contain one of `may_differ`."""
    _assert_none(case, found, "bits", may_differ)


def _assert_none(case: str, found: dict[str, Any], kind: str, may_differ: Collection[str] = ()) -> None:
    allowed = {WEIGHT_FILE: may_differ, "quant_weight.npy": _WRONG_THERE}
    for file, differences in found["tensors"].items():
        parts = allowed.get(file, ())
        assert not [name for name in differences[kind] if not any(part in name for part in parts)], (
            case,
            file,
        )
