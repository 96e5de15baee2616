"""Gives a small export of fa3 the forms in which msModelSlim's newer saver, ascendv1, stores the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.exports.exports import NEW_DESCRIPTION, Export, build_for

WEIGHTS = "quant_model_weights.safetensors"
STATIC_ONLY = ("input_scale", "input_offset", "quant_bias", "deq_scale")
ROTATION = "optional/quarot.safetensors"
# The hidden size of `build_for`.
HIDDEN = 32


def ascendv1(folder: Path, form: str = "W8A8", dtype: torch.dtype = torch.bfloat16, shards: int = 1) -> Export:
    """Write an export of a form of `FORMS`, as ascendv1 names and stores it."""
    export = build_for("vllm-ascend" if form == "C8" else "modelslim", folder, dtype)
    for file in (export.weights, *export.description_files):
        (folder / file).unlink()
    if form not in ("C8", "FAKQuant"):
        export.drop(*[name for name in export.tensors if ".fa_" in name])
        del export.description["fa_quant_type"]
    FORMS[form](export)
    _drop_weight_scales(export)
    for name, tensor in export.tensors.items():
        if name.endswith(("_scale", "_offset", ".scale")) and tensor.is_floating_point():
            export.tensors[name] = tensor.float()
    export.config.pop("quantize", None)
    export.description |= {"version": "1.0.0", "group_size": 0, "metadata": {}, "optional": {}}
    export.weights, export.description_files = WEIGHTS, (NEW_DESCRIPTION,)
    export.save(shards)
    return export


def _drop_weight_scales(export: Export) -> None:
    leaves = (".weight_scale", ".weight_offset")
    static = [name for name, value in export.description.items() if value == "W8A8" and name.endswith(leaves)]
    export.drop(*static)


def _dynamic(export: Export, part: str = "") -> None:
    """Make the linears with `part` in their names dynamic."""
    for name, value in list(export.description.items()):
        if value == "W8A8" and "." in name and part in name:
            if name.endswith(STATIC_ONLY):
                export.drop(name)
            else:
                export.description[name] = "W8A8_DYNAMIC"
    if not part:
        export.description["model_quant_type"] = "W8A8_DYNAMIC"


def _mix(export: Export) -> None:
    for name, value in export.description.items():
        if value == "W8A8":
            export.description[name] = "W8A8_MIX"


def _latent(export: Export) -> None:
    """Make FA3 that of multi-head latent attention: K and V are one head."""
    export.config |= {"kv_lora_rank": 16, "qk_rope_head_dim": 4}
    for name, tensor in export.tensors.items():
        if ".fa_k." in name or ".fa_v." in name:
            export.tensors[name] = tensor[:1].clone()
    modules = {name.rpartition(".fa_")[0] for name in export.tensors if ".fa_" in name}
    export.description |= {f"{module}.quant_type": "INT8" for module in sorted(modules)}
    export.description["fa_quant_type"] = "FAKQuant"


def _float_linears(export: Export) -> None:
    """Make all linears float, so that only the KV cache is int8."""
    for name, value in list(export.description.items()):
        if value == "W8A8" and "." in name:
            if name.endswith(".weight"):
                export.add(name, export.tensors[name].bfloat16(), "FLOAT")
            else:
                export.drop(name)
    export.description["model_quant_type"] = "FLOAT"


FORMS: dict[str, Callable[[Export], None]] = {
    "W8A8": lambda export: None,
    "W8A8_DYNAMIC": _dynamic,
    "W8A8_MIX": _mix,
    # ascendv1 calls such a model W8A8, fa3 W8A8_DYNAMIC.
    "mixed": lambda export: _dynamic(export, ".mlp."),
    "FAKQuant": _latent,
    "C8": _float_linears,
}


def rotate(export: Export, file: str = ROTATION) -> None:
    """Describe QuaRot's rotation as the content of a file, and write that file into the usual place."""
    (export.folder / "optional").mkdir(exist_ok=True)
    save_file({"global_rotation": torch.eye(HIDDEN)}, export.folder / ROTATION)
    describe_rotation(export, {"rotation_map": {"global_rotation": file}})


def describe_rotation(export: Export, quarot: object) -> None:
    export.description["optional"] = {"quarot": quarot}
    (export.folder / NEW_DESCRIPTION).write_text(json.dumps(export.description))
