"""Puts vLLM-Ascend's quantization and attention code into vLLM's engine on a CPU.

From the package run unchanged: AscendModelSlimConfig, the linear and KV cache methods with their weight loaders, the
attention backend with AscendC8AttentionBackendImpl, and the functions behind the custom operators that these call.
Replaced are torch_npu (by `ascend_operators`), the choice of the attention state (by `ascend_attention`), and
vLLM-Ascend's versions of vLLM's layers (linear layers, norms, rotary embedding), in whose place vLLM's own run.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import ascend_operators
import torch

OPERATORS = (
    "npu_quantize",
    "npu_dynamic_quant",
    "npu_quant_matmul",
    "npu_scatter_pa_kv_cache",
    "npu_fused_infer_attention_score",
    "npu_format_cast",
)


class Named(types.ModuleType):
    """A module whose types exist only to be named in annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def without_npu(package: Path) -> None:
    """Make `import vllm_ascend` work: the package's folder on sys.path, and stand-ins for torch_npu and torch.npu."""
    from transformers.utils import is_torch_npu_available

    is_torch_npu_available()  # transformers keeps the answer: no
    torch_npu = types.ModuleType("torch_npu")
    for name in OPERATORS:
        setattr(torch_npu, name, getattr(ascend_operators, name))
    torch_npu._C = Named("torch_npu._C")
    torch.npu = Named("torch.npu")
    torch.npu.is_available = lambda: False
    torch.Tensor.pin_memory = lambda tensor, *args, **kwargs: tensor
    sys.modules["torch_npu"] = torch_npu
    sys.path.insert(0, str(package))
    # The package `ops` imports every layer of vLLM-Ascend, of which some need its own version of vLLM.
    ops = types.ModuleType("vllm_ascend.ops")
    ops.__path__ = [str(Path(importlib.util.find_spec("vllm_ascend").origin).parent / "ops")]
    sys.modules[ops.__name__] = ops


def register_operators() -> None:
    """Let the CPU run what vLLM-Ascend registers for the NPU only: its quantize, and for float linears vLLM's matmul."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.utils.torch_utils import vllm_lib
    from vllm_ascend.ops import linear, register_custom_ops

    vllm_lib.impl("quantize", register_custom_ops._quantize_impl, "CPU")
    linear.AscendUnquantizedLinearMethod.apply = UnquantizedLinearMethod.apply


def separate_caches() -> None:
    """Give each attention layer a key and a value cache `[B, S, H, D]` of its own, as NPUModelRunner does."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    initialize = CPUModelRunner.initialize_kv_cache

    def initialize_kv_cache(runner: CPUModelRunner, *args: Any, **kwargs: Any) -> None:
        initialize(runner, *args, **kwargs)
        blocks, size = runner.kv_cache_config.num_blocks, runner.cache_config.block_size
        for layer in runner.compilation_config.static_forward_context.values():
            shape = layer.attn_backend.get_kv_cache_shape(blocks, size, layer.num_kv_heads, layer.head_size)
            layer.kv_cache = tuple(torch.zeros(shape, dtype=layer.kv_cache_torch_dtype))

    CPUModelRunner.initialize_kv_cache = initialize_kv_cache


def install(package: Path) -> None:
    """Prepare this process, before an engine is built in it."""
    from vllm.platforms.cpu import CpuPlatform

    without_npu(package)
    register_operators()
    separate_caches()
    from vllm_ascend.ascend_config import init_ascend_config
    from vllm_ascend.quantization import modelslim_config  # noqa: F401  # registers the quantization "ascend"

    check = CpuPlatform.check_and_update_config

    def check_and_update_config(vllm_config: Any) -> None:
        check(vllm_config)
        init_ascend_config(vllm_config)

    CpuPlatform.check_and_update_config = staticmethod(check_and_update_config)
    CpuPlatform.get_attn_backend_cls = staticmethod(lambda *args, **kwargs: "ascend_attention.Backend")
