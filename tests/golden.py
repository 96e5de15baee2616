"""Reads the golden cases: inputs and exports of the guide's tool for small models; they are not in the repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import processor

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
ABSENT = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not here")


@cache
def made_here() -> bool:
    """Tell whether the cases were made on this processor, so that floating-point results must be equal bit for bit.

    The full name and torch's kernels must be the same. Processors with other names may give the same bits too;
    test_live_reference.py makes both exports on this machine and needs no such condition.
    """
    made_on = json.loads((GOLDEN / "MADE_ON.json").read_text())
    return all(made_on[key] == value for key, value in processor.identity().items())


@cache
def cases() -> dict[str, dict]:
    """Return the cases without AntiOutlier by name; none if the data is absent."""
    if not GOLDEN.is_dir():
        return {}
    listed = json.loads((GOLDEN / "MANIFEST.json").read_text())["cases"]
    return {case["name"]: case for case in listed if case["anti_method"] is None}


def case_file(name: str, file: str) -> Path:
    return GOLDEN / "cases" / name / file


@cache
def float_weights(model: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / "models" / model / "model.safetensors")


@cache
def exported(name: str) -> dict[str, Tensor]:
    return load_file(case_file(name, "quant_model_weight_w8a8.safetensors"))


@cache
def observed_ranges(name: str) -> dict[str, Tensor]:
    return load_file(case_file(name, "debug_ranges.safetensors"))


def quantized_linears(name: str) -> list[str]:
    return [key.removesuffix(".deq_scale") for key in exported(name) if key.endswith(".deq_scale")]


@cache
def module_order(model: str) -> list[str]:
    """Return the names of a model's tensors in the order of its modules."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(GOLDEN / "models" / model)
    with torch.device("meta"):
        return list(AutoModelForCausalLM.from_config(config).state_dict())
