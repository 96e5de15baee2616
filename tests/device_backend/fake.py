"""Runs fa3's layer code on fake tensors of a device "npu", and checks that no operator mixes devices.

Code that reads values (a branch, .item(), a mask's tokens) cannot run on fake tensors; the test device covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fa3cli.calibration.layer_observation import LayerObservation
from fa3cli.calibration.layer_synchronous import LayerSynchronousForwards
from fa3cli.calibration.linear_inputs import LinearInputs
from fa3cli.calibration.smoothing import smooth
from fa3cli.models.memory_model import MemoryModel
from fa3cli.observers import Observer
from fa3cli.observers.channel_statistics import ChannelStatistics
from fa3cli.observers.input_range import InputRange
from fa3cli.observers.range_param import RangeParam
from fa3cli.observers.reference_range import ReferenceRange
from fa3cli.quantization.anti_outlier.group import GroupData
from fa3cli.quantization.anti_outlier.smooth_quant import balanced_scale, migrated_scale
from fa3cli.quantization.reference_linear import fake_quantize_weight
from fa3cli.quantization.settings import QuantSettings
from fa3cli.quantization.simulation.attention import SimulatedStates
from fa3cli.quantization.simulation.linears import SimulatedLinear

__all__ = ["observe_layers", "simulate", "smooth_layers"]

_setup_privateuseone_for_python_backend("npu")  # slicing needs a guard of the device, even without data
_DEVICE = torch.device("npu:0")
_SAMPLES = 2


class _OnDevice(TorchDispatchMode):
    """Asserts that results are on the device, except copies to other devices and results of CPU tensors alone."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        given, found = _devices((args, kwargs)), _devices(results)
        moved = func is torch.ops.aten._to_copy.default or given == {torch.device("cpu")}
        assert moved or found <= {_DEVICE}, f"{func} from {given} to {found}"
        return results


def _devices(values: Any) -> set[torch.device]:
    return {leaf.device for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)}


def observe_layers(folder: str) -> None:
    """Run samples through a model's layers with all observers that read no values."""
    _with_model(folder, _observe)


def smooth_layers(folder: str) -> None:
    """Find scales as m1 and m4 do, and smooth the weights by them."""
    _with_model(folder, _smooth)


def simulate() -> None:
    """Quantize a weight as the reference does in calibration, and run simulated linears and states of an export."""
    with FakeTensorMode(), torch.no_grad():
        states, linear = SimulatedStates(4), SimulatedLinear(nn.Linear(6, 8), torch.float32)
        for module in (states, linear):
            for name, buffer in module.named_buffers():
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=_DEVICE)
        with _OnDevice():
            fake_quantize_weight(torch.rand(8, 6, device=_DEVICE), mm_tensor=False)
            states(torch.rand(1, 4, 5, 6, device=_DEVICE))
            linear(torch.rand(5, 6, device=_DEVICE))


def _with_model(folder: str, use: Callable[[MemoryModel], None]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
        for module in model.modules():  # module.to() swaps tensors, which fake tensors refuse
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to(_DEVICE), requires_grad=False)
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer.to(_DEVICE)
        layered = MemoryModel(model)
        assert layered.device == _DEVICE
        with _OnDevice():
            use(layered)


def _observe(model: MemoryModel) -> None:
    with _forwards(model) as forwards:
        forwards.start()
        for index, layer in enumerate(model.layers):
            linears, kind = model.linears(layer), (InputRange, ReferenceRange)[index % 2]
            ranges: dict[str, Observer] = dict.fromkeys(linears, kind())
            outliers = LinearInputs(linears, dict.fromkeys(linears, RangeParam(in_float32=index % 2 == 0)))
            settings = QuantSettings(fa_amp=1, fa_score="error")
            observation = LayerObservation(ranges, linears, model.attentions(layer), settings)
            with outliers, observation:
                for sample in range(_SAMPLES):
                    forwards.advance(sample, index)
            assert all(seen.tokens for roles in observation.heads.values() for seen in roles.values())
        assert forwards.finish(0).logits.device == _DEVICE


def _smooth(model: MemoryModel) -> None:
    with _forwards(model) as forwards:
        forwards.start()
        for index, layer in enumerate(model.layers):
            linears = model.linears(layer)
            with LinearInputs(linears, dict.fromkeys(linears, ChannelStatistics(keep=1))) as inputs:
                for sample in range(_SAMPLES):
                    forwards.advance(sample, index)
            scales = {}
            for source, name, rule in (
                ("input_layernorm", "self_attn.q_proj", balanced_scale),
                ("post_attention_layernorm", "mlp.gate_proj", balanced_scale),
                ("mlp.up_proj", "mlp.down_proj", migrated_scale),
                ("self_attn.v_proj", "self_attn.o_proj", migrated_scale),
            ):
                linear = linears[f"{layer}.{name}"]
                heads, repeats = (2, 2) if source.endswith("v_proj") else (1, 1)
                seen = inputs.observers[f"{layer}.{name}"]
                data = GroupData(seen, [linear.weight.detach()], [None], heads, repeats)
                scales[f"{layer}.{source}"] = rule(data)
            smooth(model, layer, "m4", scales)


def _forwards(model: MemoryModel) -> LayerSynchronousForwards:
    ids = torch.ones(1, 9, dtype=torch.int64, device=_DEVICE)
    samples = [{"input_ids": ids, "use_cache": False}] * _SAMPLES
    return LayerSynchronousForwards(model.model, list(model.layers.values()), samples)
