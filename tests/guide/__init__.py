"""Provides the steps of the guide's scripts, for the tests of the guide's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fa3cli
from fa3cli import Calibrator
from tests.export_files import WEIGHT_FILE
from tests.sample_models import token_ids, write_lines

LENGTHS = (9, 17, 5)


def load(folder: Path) -> nn.Module:
    """Load a model into memory as the guide's scripts do."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, torch_dtype="auto")


def script_data(*lengths: int) -> list[list[Tensor]]:
    """Return calib_data with the samples of `token_ids`: input_ids and attention_mask."""
    samples = [torch.tensor([line]) for line in token_ids(*lengths or LENGTHS)]
    return [[ids, torch.ones_like(ids)] for ids in samples]


def export(calibrator: Calibrator, output: Path) -> dict[str, Tensor]:
    """Run and save; return the saved tensors."""
    calibrator.run()
    return tensors(calibrator.save(output, save_type=["safe_tensor"]).output)


def tensors(output: Path) -> dict[str, Tensor]:
    """Return the tensors of an export that is one file."""
    return load_file(output / WEIGHT_FILE)


def quantized(folder: Path, **options: Any) -> dict[str, Tensor]:
    """Return what `fa3 quantize` exports from the samples of `script_data`."""
    calib = write_lines(folder.parent / "calib.jsonl", token_ids(*LENGTHS))
    output = folder.parent / "quantized"
    return tensors(fa3cli.quantize(folder, calib=calib, output=output, recipe="none", **options).output)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not in both, or that differ in any bit."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one
        or name not in other
        or one[name].dtype != other[name].dtype
        or not torch.equal(one[name], other[name])
    ]
