"""Measures what the int8 KV cache of vLLM-Ascend (C8) changes, with one scale per channel and with one per head.

For each weights folder: the KL divergence from the float model in nats per token, with K and V in int8 and all else in
float; the calibration is fa3's own. The folder's calib.jsonl and eval.jsonl, or those of the options, are the text.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from fa3cli import api, patching
from fa3cli.calibration.parameters import LayerParameters
from fa3cli.fa_quantizer import quantizer_of
from fa3cli.numerics.affine import fake_quantize, symmetric_scale
from fa3cli.runs.calibration_folder import read_calibration

Scales = Mapping[str, Mapping[str, Tensor]]
"""Per attention module and role, scales that broadcast to `[B, H, S, D]`."""


def scales_per_head(layers: Sequence[LayerParameters]) -> Scales:
    """Return the scales of FA3, `[H, 1, 1]`."""
    return {
        module: {role: symmetric_scale(*roles[role])[:, None, None] for role in "kv"}
        for layer in layers
        for module, roles in layer.attentions.items()
    }


def scales_per_channel(layers: Sequence[LayerParameters]) -> Scales:
    """Return the scales of C8, `[H, 1, D]`."""
    return {
        module: {role: symmetric_scale(peak, peak)[:, None] for role, peak in roles.items()}
        for layer in layers
        for module, roles in layer.channels.items()
    }


def quantizing(scales: Mapping[str, Tensor]) -> Callable[[Tensor, str], Tensor]:
    """Return the transform of an attention module that quantizes K and V."""
    return lambda states, role: fake_quantize(states, scales[role].to(states.dtype)) if role in scales else states


@torch.no_grad()
def log_probabilities(model: Any, samples: Sequence[Tensor], scales: Scales) -> list[Tensor]:
    """Return each sample's log-probabilities, `[S, V]`, with K and V quantized by these scales."""
    for name, module in model.named_modules():
        if hasattr(module, "fa_quantizer"):
            quantizer_of(module).transform = quantizing(scales.get(name, {}))
    return [model(input_ids=ids).logits[0].float().log_softmax(-1) for ids in samples]


def divergence(float_model: Sequence[Tensor], quantized: Sequence[Tensor]) -> float:
    """Return the mean KL divergence over all tokens."""
    per_token = [(one.exp() * (one - other)).sum(-1) for one, other in zip(float_model, quantized, strict=True)]
    return torch.cat(per_token).mean().item()


def measure(folder: Path, calib: Path, text: Path, lines: int) -> str:
    """Return the row of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        patched = Path(shutil.copytree(folder, Path(scratch, folder.name)))
        patching.patch(patched)
        layers = read_calibration(
            api.calibrate(patched, Path(scratch, "kept"), calib=calib, max_length=512).output
        ).layers
        model = AutoModelForCausalLM.from_pretrained(patched, trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(patched)
        texts = [json.loads(line) for line in text.read_text().splitlines()[:lines]]
        samples = [
            tokenizer(line["text"] if "text" in line else line["inputs_pretokenized"], return_tensors="pt").input_ids
            for line in texts
        ]
        samples = [ids[:, : model.config.max_position_embeddings] for ids in samples]
        float_model = log_probabilities(model, samples, {})
        head, channel = (
            divergence(float_model, log_probabilities(model, samples, scales))
            for scales in (scales_per_head(layers), scales_per_channel(layers))
        )
    return f"{folder.name}: per head {head:.2e}, per channel {channel:.2e}, ratio {channel / head:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--calib", type=Path)
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--lines", type=int, default=64)
    options = parser.parse_args()
    for folder in options.folders:
        calib, text = options.calib or folder / "calib.jsonl", options.eval or folder / "eval.jsonl"
        print(measure(folder, calib, text, options.lines), flush=True)


if __name__ == "__main__":
    main()
