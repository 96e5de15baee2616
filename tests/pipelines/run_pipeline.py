"""Patches and quantizes one tiny pipeline: `python -m … NAME FOLDER` prints the results as json.

What its attention sees is measured a second time by the plainest means: the patched pipeline as diffusers loads it, with
a transform on every quantizer, sampled the same way.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fa3cli import api, patching
from fa3cli.numerics.recall_window import recall_window
from fa3cli.pipelines.sampling import Sampling, sample
from fa3cli.runs.result import Result, read_report
from tests.pipelines.whole_pipelines import (
    PROMPTS,
    make_whole,
    missing,
    plain_pipeline,
    sampling_of,
)

Windows = dict[tuple[str, str], tuple[Tensor, Tensor]]
_WEIGHTS = "quant_model_weight_w8a8_dynamic.safetensors"
_BLOCK = re.compile(r"(transformer_blocks|single_transformer_blocks|blocks)\.\d+")


def run(name: str, folder: Path) -> dict[str, Any]:
    import diffusers

    if reason := missing(name):
        return {"missing": reason}
    make_whole(name, folder)
    sampling = sampling_of(name)
    before = _sampled(plain_pipeline(folder), sampling, "pt")
    patching.patch(folder)
    pipeline = plain_pipeline(folder, trusted=True)
    after = _sampled(pipeline, sampling, "pt")
    transformers = {component: part for component, part in pipeline.components.items() if attentions_of(part)}
    windows = {component: watched(transformer) for component, transformer in transformers.items()}
    _sampled(pipeline, sampling, "latent")
    prompts = folder.parent / f"{folder.name}.txt"
    prompts.write_text("\n".join(PROMPTS))
    given = asdict(sampling)
    del given["max_records"]
    results = {
        read_report(result.output)["identity"]["component"]: result
        for result in api.quantize_all(folder, **given | {"prompts": prompts})
    }
    return {
        "diffusers": diffusers.__version__,
        "image": all(map(torch.equal, before, after)) and min(tensor.std().item() for tensor in after) > 0.01,
        "calls": sum(result.samples for result in results.values()),
        "components": {
            component: {
                **_export(results[component], transformer, expected_scales(windows[component])),
                "psnr": api.compare_images(results[component].output, folder, prompts).psnr,
            }
            for component, transformer in transformers.items()
        },
        "outputs": sorted(results) == sorted(transformers),
    }


def _export(result: Result, transformer: nn.Module, expected: Mapping[str, Tensor]) -> dict[str, Any]:
    """The facts about the export of one transformer."""
    tensors = load_file(result.output / _WEIGHTS)
    heads = {name: tensor for name, tensor in tensors.items() if ".fa_" in name}
    scales = {name: tensor for name, tensor in heads.items() if name.endswith(".scale")}
    attentions = attentions_of(transformer)
    blocks = [name for name, _ in transformer.named_modules() if _BLOCK.fullmatch(name)]
    return {
        "attentions": len(attentions),
        "head tensors": len(heads),
        "of attentions": {name.rsplit(".", 2)[0] for name in heads} == attentions.keys(),
        "shapes": sorted({tuple(tensor.shape) for tensor in heads.values()}),
        "scales": same(scales, expected),
        "zero offsets": not any(heads[name].any() for name in heads.keys() - scales.keys()),
        "float names": all(
            name in tensors and tensors[name].shape == tensor.shape for name, tensor in transformer.state_dict().items()
        ),
        "blocks": [layer.name for layer in result.layers] == blocks,
        "int8 weights": sum(
            name.endswith(".weight") and tensor.dtype == torch.int8 for name, tensor in tensors.items()
        ),
        "verified": api.verify(result.output).ok,
    }


def _sampled(pipeline: Any, sampling: Sampling, output_type: str) -> list[Tensor]:
    return [sample(pipeline, sampling, number, output_type=output_type) for number in range(len(PROMPTS))]


def attentions_of(part: Any) -> dict[str, nn.Module]:
    """Return the modules that have a quantizer, by name."""
    modules = part.named_modules() if isinstance(part, nn.Module) else ()
    return {name: module for name, module in modules if hasattr(module, "fa_quantizer")}


def watched(transformer: nn.Module) -> Windows:
    """Return a dict of windows by module and role, which is filled when the quantizers get states."""
    windows: Windows = {}

    def watch(name: str) -> Callable[[Tensor, str], Tensor]:
        def seen(states: Tensor, role: str) -> Tensor:
            low, high = recall_window(states, 1.0 if role == "v" else 0.9999)
            earlier = windows.get((name, role), (low, high))
            windows[name, role] = (torch.minimum(low, earlier[0]), torch.maximum(high, earlier[1]))
            return states

        return seen

    for name, module in attentions_of(transformer).items():
        module.fa_quantizer.transform = watch(name)
    return windows


def expected_scales(windows: Mapping[tuple[str, str], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the scales, `[H, 1]`, of the windows by the names that an export has for them."""
    return {
        f"{name}.fa_{role}.scale": (torch.maximum(low.abs(), high.abs()) / 127).unsqueeze(1)
        for (name, role), (low, high) in windows.items()
    }


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same tensors by the same names."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
