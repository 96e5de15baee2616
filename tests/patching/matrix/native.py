"""The native side: make a tiny model, find its attention cores, keep its plain and its scaled results."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.patching.matrix import factors, forwards, scaled_core, tiny_models
from tests.patching.matrix.forwards import WAYS, Answer, answer
from tests.patching.matrix.scaled_core import Cores

__all__ = ["load", "run"]

# These repeat their heads before they cache them.
REPEATED_EARLY = {"falcon"}


def run(model_type: str, root: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Make a model and run it, unless `known` tells of the same; its folder and its answers stay in `root`."""
    digest = _digest(model_type)
    if known.get("digest") == digest:
        return known
    folder = root / "models" / model_type
    shutil.rmtree(folder, ignore_errors=True)
    made = tiny_models.make(model_type, folder)
    config = json.loads((folder / "config.json").read_text())
    parts = [name for name, part in config.items() if isinstance(part, dict) and part.get("model_type")]
    found: dict[str, Any] = {"digest": digest, "parts": parts}
    kept = {}
    for implementation in ("eager", "sdpa"):
        try:
            model, info = load(folder, implementation, remote=False)
        except ValueError as error:
            if implementation == "sdpa" and "scaled_dot_product_attention" in str(error):
                continue
            raise
        _check_buffers(made, model)
        kept[implementation], found[implementation] = _answers(model, model_type in REPEATED_EARLY)
        kept[implementation]["info"] = info
    (root / "answers").mkdir(exist_ok=True)
    torch.save(kept, root / "answers" / f"{model_type}.pt")
    return found


def load(folder: Path, implementation: str, remote: bool) -> tuple[nn.Module, dict[str, list[str]]]:
    """Load a model in float32, and what was said of its keys."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        trust_remote_code=remote,
        output_loading_info=True,
        torch_dtype=torch.float32,
        attn_implementation=implementation,
    )
    return model.eval(), {key: sorted(map(str, value)) for key, value in info.items() if value}


def _answers(model: nn.Module, repeated_early: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a model answers, and what is said of that."""
    with Cores(repeated_early) as cores:
        plain = {way: answer(model, way) for way in WAYS}
    scaled, seen = {}, {}
    for way in WAYS:
        with cores.scaling() as scaling:
            scaled[way] = answer(model, way)
        seen[way] = scaling.seen
    # Some composite models don't hand on the implementation that was asked for.
    kept = {
        "implementation": model.config._attn_implementation,
        "plain": plain,
        "scaled": scaled,
        "seen": seen,
    }
    return kept, {
        "own": type(model).__module__ in cores.modules,
        "softmaxes": cores.softmaxes,
        "cores": cores.cores,
        "errors": {way: answer[:300] for way, answer in plain.items() if isinstance(answer, str)},
        "doubts": _doubts(cores, plain, scaled),
    }


def _doubts(cores: Cores, plain: dict[str, Answer], scaled: dict[str, Answer]) -> list[str]:
    """Return why a comparison with these answers would not be a proof."""
    found = []
    if cores.cores != cores.softmaxes:
        found.append(f"{cores.softmaxes} softmaxes over keys, but {cores.cores} attention cores")
    for way, answered in plain.items():
        if isinstance(answered, str):
            continue
        if isinstance(scaled[way], str):
            found.append(f"{way}: scaled, it fails: {scaled[way]}"[:300])
        elif not all(run["logits"].isfinite().all() for run in (answered, scaled[way])):
            found.append(f"{way}: logits aren't finite")
        elif torch.equal(answered["logits"], scaled[way]["logits"]):
            found.append(f"{way}: scaling changes nothing")
    return found


def _check_buffers(made: nn.Module, loaded: nn.Module) -> None:
    """Check for buffers that some versions leave uninitialised, which give random answers."""
    expected = dict(made.named_buffers())
    lost = [name for name, buffer in loaded.named_buffers() if not torch.equal(buffer.float(), expected[name].float())]
    if lost:
        raise ValueError(f"from_pretrained leaves buffers as they come: {', '.join(lost)}")


def _digest(model_type: str) -> str:
    """A digest of what `run` depends on, without the transformers version."""
    sources = [inspect.getsource(part) for part in (factors, forwards, scaled_core, run, load, _answers)]
    return hashlib.sha256(repr((tiny_models.recipe(model_type), sources)).encode()).hexdigest()[:16]
