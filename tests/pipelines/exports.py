"""Makes an export of a tiny pipeline's transformer as a run writes it, and the parameters that calibration would find."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fa3cli.exports.companions import exported_config
from fa3cli.exports.layout import REPORT_FILE
from fa3cli.exports.target_export import TargetExport
from fa3cli.exports.targets import TARGETS
from fa3cli.pipelines.opening import OpenedPipeline, load_pipeline
from fa3cli.pipelines.sampling import Sampling, sample
from fa3cli.pipelines.streamed_blocks import blocks_streamed
from fa3cli.quantization.attention import quantize_heads
from fa3cli.quantization.dynamic_linear import quantize_dynamic_linear
from tests.patching.diffusion.tiny_pipelines import SIZE

__all__ = ["SAMPLING", "Heads", "block_linears", "head_parameters", "write_export"]

SAMPLING = {"steps": 3, "height": 16, "width": 16, "frames": None, "guidance": None, "seed": 7}

Heads = Mapping[str, Mapping[str, Tensor]]


def block_linears(opened: OpenedPipeline) -> list[str]:
    """Names of the linears in the transformer's blocks."""
    model = opened.transformers["transformer"]
    return [name for block in model.layers for name in model.linears(block)]


def head_parameters(opened: OpenedPipeline) -> Heads:
    """FA3 parameters of every attention, from one sampling."""
    model, peaks = opened.transformers["transformer"], {}

    def watch(name: str) -> Callable[[Tensor, str], Tensor]:
        def seen(states: Tensor, role: str) -> Tensor:
            peak = states.abs().amax((0, 2, 3))
            peaks[name, role] = torch.maximum(peak, peaks.get((name, role), peak))
            return states

        return seen

    attentions = model.attentions()
    for name, module in attentions.items():
        module.fa_quantizer.transform = watch(name)
    with blocks_streamed(model):
        pipeline = load_pipeline(opened, {"transformer": model.model})
        sample(pipeline, Sampling(("cat",), **SAMPLING), 0)
    for module in attentions.values():
        module.fa_quantizer.transform = None
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for (name, role), peak in peaks.items():
        found[name] |= quantize_heads(role, -peak, peak, torch.float32)
    return found


def write_export(folder: Path, opened: OpenedPipeline, heads: Heads, linears: Collection[str] = ()) -> Path:
    """Write the transformer with these linears made dynamic, and these attentions' parameters."""
    model = opened.transformers["transformer"]
    export = TargetExport(TARGETS["mindie-sd"], folder, model.names, (linears, list(heads), ()))
    for name, tensor in model.checkpoint.read(model.stored).items():
        if (module := name.removesuffix(".weight")) in linears:
            export.add_linear(module, quantize_dynamic_linear(tensor, torch.float32), "W8A8_DYNAMIC")
        else:
            export.add(name, tensor)
    for name, tensors in heads.items():
        export.add_attention(name, tensors, SIZE)
    export.close(list(model.linears()), exported_config(opened.configs["transformer"], torch.float32))
    identity = {
        "component": "transformer",
        "dtype": "torch.float32",
        "sampling": {**SAMPLING, "max_records": None},
    }
    (folder / REPORT_FILE).write_text(json.dumps({"identity": identity, "target": "mindie-sd"}))
    return folder
