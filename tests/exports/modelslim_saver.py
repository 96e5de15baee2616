"""Writes exports with msModelSlim's own saver (its v1 service), in its environment, for `fa3 verify` to read.

python -m tests.exports.modelslim_saver FOLDER CASES    CASES: json, name of the export -> arguments of `save`

The saver sees only modules and their tensors. So a tree of modules with the names in the weights file stands for the
model, and no model code runs: every linear gets random inputs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from msmodelslim import ir
from msmodelslim.core.base.protocol import BatchProcessRequest
from msmodelslim.core.quant_service.modelslim_v1.save.ascendv1 import AscendV1Config, AscendV1Saver
from msmodelslim.core.quant_service.modelslim_v1.save.interface import AscendV1GlobalModelDtypeInterface
from msmodelslim.core.quantizer.base import QConfig
from msmodelslim.core.quantizer.linear import LinearQConfig, LinearQuantizer
from msmodelslim.ir.api import calculate_qparam
from msmodelslim.ir.qal import QDType, QScope
from msmodelslim.model import IModel
from safetensors.torch import load_file
from torch import nn

_WEIGHT = QConfig(dtype="int8", scope="per_channel", symmetric=True, method="minmax")
_SCHEMES = {
    "W8A8": QConfig(dtype="int8", scope="per_tensor", symmetric=False, method="minmax"),
    "W8A8_DYNAMIC": QConfig(dtype="int8", scope="per_token", symmetric=True, method="minmax"),
    "W8A8_MIX": QConfig(dtype="int8", scope="pd_mix", symmetric=False, method="minmax"),
}


class _Adapter(IModel, AscendV1GlobalModelDtypeInterface):
    model_type, trust_remote_code, model_path = "", False, Path()

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model_path, self._dtype = folder, dtype

    def get_global_model_torch_dtype(self) -> torch.dtype:
        return self._dtype


def _tree(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return modules with these tensors; those called `...proj` or `...linear` are linears."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for number, part in enumerate(path):
            if part not in module._modules:
                is_linear = number == len(path) - 1 and tensors[".".join([*path, "weight"])].dim() == 2
                is_linear = is_linear and "embed" not in part
                module.add_module(part, _linear(tensors, ".".join(path)) if is_linear else nn.Module())
            module = module._modules[part]
        if leaf not in module._parameters:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    return root


def _linear(tensors: Mapping[str, torch.Tensor], name: str) -> nn.Linear:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    linear.weight.data = weight
    if bias is not None:
        linear.bias.data = bias
    return linear.requires_grad_(False)


def _quantize(model: nn.Module, schemes: Mapping[str, str]) -> None:
    """Quantize the linears by the last pattern that matches their names."""
    for name, module in list(model.named_modules()):
        found = [scheme for pattern, scheme in schemes.items() if fnmatchcase(name, pattern)]
        if not isinstance(module, nn.Linear) or not found:
            continue
        quantizer = LinearQuantizer(LinearQConfig(act=_SCHEMES[found[-1]], weight=_WEIGHT))
        quantizer.setup(module)
        # The same inputs for linears that an engine fuses.
        inputs = torch.randn(24, module.in_features, generator=torch.Generator().manual_seed(module.in_features))
        quantizer(inputs.to(module.weight.dtype))
        model.set_submodule(name, quantizer.deploy())


def _range(rows: int, scope: str) -> object:
    """Return the parameters of int8 values whose largest absolute values are random."""
    largest = torch.rand(rows) + 0.5
    return calculate_qparam(-largest, largest, QDType.INT8, QScope(scope), True)


def save(
    output: Path,
    weights: Path,
    schemes: Mapping[str, str],
    *,
    part_file_size: int = 4,
    cache: int | None = None,
    heads: int | None = None,
    rotation: int | None = None,
) -> None:
    """Quantize the linears of a folder of weights by pattern, and save the model.

    `cache` is the width of K and V for an int8 KV cache, `heads` the number of heads of latent attention, `rotation`
    the size of the hidden states, for the global rotation of QuaRot.
    """
    torch.manual_seed(0)
    tensors = load_file(weights / "model.safetensors")
    # A tied head is a module, too, and saved as another tensor.
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    model = _tree(tensors)
    _quantize(model, schemes)
    for name, module in list(model.named_modules()):
        if name.endswith(".self_attn") and cache:
            for states in ("key_states", "value_states"):
                quantizer = ir.AutoFakeQuantDynamicCache.create(_range(cache, "per_channel"))
                module.add_module(f"{states}_quantizer", quantizer)
        if name.endswith(".self_attn") and heads:
            for branch, rows in (("fa_q", heads), ("fa_k", 1), ("fa_v", 1)):
                module.add_module(branch, ir.AutoFakeQuantActivation.create(_range(rows, "per_head")))
    if rotation:
        info = ir.QuarotOfflineRotationInfo(torch.linalg.qr(torch.randn(rotation, rotation))[0])
        hook = ir.QuaRotExtraInfoHookIR(info)
        hook.set_hook_handle(model.model.norm.register_forward_pre_hook(hook))
    output.mkdir(mode=0o750)
    config = AscendV1Config(save_directory=str(output), part_file_size=part_file_size)
    saver = AscendV1Saver(model, config, _Adapter(weights, next(iter(tensors.values())).dtype))
    saver.pre_run()
    saver.postprocess(BatchProcessRequest("", model))
    saver.post_run()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for case, options in json.loads(sys.argv[2]).items():
        save(root / case, root / options.pop("weights"), **options)
