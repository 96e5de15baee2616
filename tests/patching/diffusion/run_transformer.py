"""Runs one tiny pipeline before and after its patch: `python -m … CLASS FOLDER` prints the results as json.

The native side runs first, as it is and with the operands of its attention multiplied by powers of two that differ by
role and head; then the folder is patched and loaded the way model_index.json says, and has to compute the same bits.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fa3cli import patching
from tests.patching.diffusion.tiny_pipelines import INPUTS, PIPELINES, make
from tests.patching.matrix.factors import factors

# Names of modules whose attention is to be quantized; a text refiner is not among them.
_QUANTIZED = ("transformer_blocks.", "single_transformer_blocks.", "blocks.")


class ScaledAttention(TorchFunctionMode):
    """Multiplies the inputs of attention, `[B, H, S, D]`, while a module runs that should be quantized."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running = 0
        for name, module in model.named_modules():
            if name.startswith(_QUANTIZED) and hasattr(module, "processor"):
                module.register_forward_pre_hook(lambda *_: self._move(1))
                module.register_forward_hook(lambda *_: self._move(-1))

    def _move(self, by: int) -> None:
        self.running += by

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(function, "__name__", "") == "scaled_dot_product_attention" and self.running:
            args = list(args)
            for index, (role, name) in enumerate(zip("qkv", ("query", "key", "value"))):
                if index < len(args):
                    args[index] = scaled(args[index], role)
                else:
                    kwargs[name] = scaled(kwargs[name], role)
        return function(*args, **kwargs)


def scaled(states: Tensor, role: str) -> Tensor:
    """States `[B, H, S, D]`, multiplied by a power of two per head."""
    return states * factors(role, torch.arange(states.shape[1])).view(-1, 1, 1)


def run(class_name: str, folder: Path) -> dict[str, Any]:
    import diffusers

    make(class_name, folder)
    torch.manual_seed(1)
    inputs = INPUTS[class_name]()
    native = _load(folder, class_name)
    found: dict[str, Any] = {"diffusers": diffusers.__version__}
    image = _images(folder) if class_name == "FluxTransformer2DModel" else None
    plain = _forward(native, inputs)
    with ScaledAttention(native):
        powers = _forward(native, inputs)
    expected = sorted(
        name for name, module in native.named_modules() if name.startswith(_QUANTIZED) and hasattr(module, "processor")
    )
    before = _files(folder)
    result = patching.patch(folder)
    model = _load(folder, class_name)
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "fa_quantizer")}
    calls: Counter = Counter()
    for name, module in modules.items():
        module.fa_quantizer.transform = lambda states, role, name=name: calls.update([(name, role)]) or states
    found |= {
        "class": f"{type(model).__module__.split('.')[0]}.{type(model).__name__}",
        "modules": sorted(modules) == expected,
        "quantizers": len(modules),
        "plain": torch.equal(plain, _forward(model, inputs)),
        "once": calls == Counter((name, role) for name in modules for role in "qkv"),
        "heads": sorted({module.fa_quantizer.layout for module in modules.values()}),
        "keys": sorted(native.state_dict()) == sorted(model.state_dict()),
    }
    for module in modules.values():
        module.fa_quantizer.transform = scaled
    found["powers"] = torch.equal(powers, _forward(model, inputs)) and not torch.equal(powers, plain)
    if image is not None:
        found["fused"] = _fused(model, inputs, modules)
        found["image"] = torch.equal(image, _images(folder)) and image.std().item() > 0.01
    found["again"] = patching.patch(folder).state
    found["reproducible"] = patching.status(folder).reproducible
    patching.undo(folder)
    found["undone"] = _files(folder) == before
    found["attention"] = [attention.name for file in result.files for attention in file.attention]
    return found


def _fused(model: nn.Module, inputs: dict[str, Any], modules: dict[str, nn.Module]) -> bool:
    """Whether the quantizers are still used with fused projections, which may select other processors."""
    model.fuse_qkv_projections()
    calls: Counter = Counter()
    for name, module in modules.items():
        module.fa_quantizer.transform = lambda states, role, name=name: calls.update([(name, role)]) or states
    _forward(model, inputs)
    return calls == Counter((name, role) for name in modules for role in "qkv")


def _load(folder: Path, class_name: str) -> nn.Module:
    """Load the transformer as the pipeline does."""
    import diffusers

    name, others = PIPELINES.get(class_name, ("FluxPipeline", ()))
    pipeline = getattr(diffusers, name).from_pretrained(folder, trust_remote_code=True, **dict.fromkeys(others))
    return pipeline.transformer.eval()


def _forward(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    known = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in inputs.items() if name in known}
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def _images(folder: Path) -> Tensor:
    """Two prompts, four steps."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        ["a cat", "a dog in the rain"], num_inference_steps=4, height=8, width=8, max_sequence_length=16,
        generator=torch.Generator().manual_seed(2), output_type="pt",
    ).images  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
