"""Exports the guide's tool wrote of small models, with what they were made from; not part of the repository."""

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
    """Tell whether sums and products of this processor have the bits of the one that the cases were made on.

    Its name must be the same in full, and torch's kernels for it: names that differ ("AMD EPYC 9B14") are others, though
    their bits may be equal, and then what test_live_reference.py compares is the proof.
    """
    made_on = json.loads((GOLDEN / "MADE_ON.json").read_text())
    return all(made_on[key] == value for key, value in processor.identity().items())


@cache
def cases() -> dict[str, dict]:
    """The cases without AntiOutlier by name; none where the data is absent."""
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
    """Names of a model's tensors as its modules come."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(GOLDEN / "models" / model)
    with torch.device("meta"):
        return list(AutoModelForCausalLM.from_config(config).state_dict())
