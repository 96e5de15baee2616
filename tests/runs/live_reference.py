"""Makes the same exports of random models with fa3 and with msModelSlim on this machine, each in its own process.

python -m tests.runs.live_reference fa3cli|msmodelslim FOLDER CASE...    exports to FOLDER/SIDE/CASE

A case's name says the model type, its dtype, act_method, anti_method, disable_level and fa_amp.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import product
from pathlib import Path

import torch

from benchmarks import reference_run
from fa3cli import api, patching
from tests.sample_models import edit_weights, token_ids, write_lines, write_model

SIDES = ("fa3cli", "msmodelslim")
# All exports of a model must differ: an option without effect would prove nothing.
SAMPLE = [
    "llama-float32-act1-none-L0-amp0",
    "llama-float32-act1-none-L0-amp1",
    "llama-float32-act2-none-L0-amp0",
    "llama-float32-act3-none-L5-amp0",
    "llama-float32-act3-m1-L0-amp0",
    "llama-float32-act1-m3-L0-amp0",
    "llama-float32-act2-m4-L5-amp0",
    "llama-float32-act1-m6-L0-amp2",
    "llama-bfloat16-act1-none-L5-amp0",
    "llama-bfloat16-act2-none-L0-amp1",
    "llama-bfloat16-act3-m3-L0-amp0",
    "llama-float16-act3-none-L0-amp1",
    "llama-float16-act1-m1-L5-amp0",
    "qwen2-float32-act1-none-L0-amp0",
    "qwen2-float32-act3-none-L5-amp2",
    "qwen2-float32-act1-m4-L0-amp0",
    "qwen2-bfloat16-act2-none-L5-amp0",
    "qwen2-bfloat16-act3-m6-L0-amp0",
    "qwen2-float16-act1-m3-L0-amp0",
]
# Without m2, whose candidates differ by rounding only (docs/numerics.md), and m5, whose formulas are fa3's own.
SWEEP = [
    "-".join(parts)
    for parts in product(
        ("llama", "qwen2"),
        ("float32", "bfloat16", "float16"),
        ("act1", "act2", "act3"),
        ("none", "m1", "m3", "m4", "m6"),
        ("L0", "L5"),
        ("amp0", "amp1"),
    )
]
_LAYERS = 4
_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_hidden_layers": _LAYERS}


@cache
def patched_model(root: Path, model_type: str, dtype: str, quantizer: str) -> Path:
    """Write a random model whose inputs and states have outlier channels, others in every layer, and patch it."""
    folder = root / f"{model_type}-{dtype}-{quantizer}"
    write_model(folder, model_type, patched=False, dtype=getattr(torch, dtype), **_SIZES)
    edit_weights(folder, _add_outliers)
    patching.patch(folder, quantizer=quantizer)
    return folder


def _add_outliers(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}"
        tensors[f"{name}.input_layernorm.weight"][7 * layer + 3] *= 10 * (layer + 1)
        tensors[f"{name}.post_attention_layernorm.weight"][5 * layer] *= 40
        tensors[f"{name}.self_attn.v_proj.weight"][2 * layer] *= 6
        tensors[f"{name}.self_attn.k_proj.weight"][layer] *= layer + 1


def export(side: str, case: str, root: Path, calib: Path) -> None:
    """Make the export of a case on one side."""
    model_type, dtype, act, anti, level, amp = case.split("-")
    down = tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(_LAYERS))
    options = {
        "act_method": int(act.removeprefix("act")),
        "anti_method": anti,
        "disable_level": level,
        "fa_amp": int(amp.removeprefix("amp")),
        "disable_names": down if model_type == "qwen2" else (),
        "save_types": ("safe_tensor", "numpy"),
    }
    folder, output = patched_model(root, model_type, dtype, side), root / side / case
    if side == "fa3cli":
        api.quantize(folder, calib=calib, output=output, recipe="none", numerics="reference", **options)
    else:
        model, samples = reference_run.load_model(folder), reference_run.read_samples(calib)
        reference_run.quantize(model, samples, output, **options)


def main(side: str, root: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    (root / side).mkdir()
    calib = write_lines(root / f"{side}.jsonl", token_ids(24, 1, 48, 17, 33, 1, 40))
    for case in cases:
        export(side, case, root, calib)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
