"""Finds a run's device by name, prepares it, and tells its properties."""

from __future__ import annotations

import importlib
import os
import re
from importlib import util
from pathlib import Path
from types import ModuleType

import torch

from fa3cli.errors import InvalidInputError, MissingCapabilityError, UnsupportedError, UsageError, brief
from fa3cli.models import DTYPES

__all__ = ["RUN_DTYPES", "computes_bfloat16", "device_kind", "device_of", "free_memory", "run_dtype"]

RUN_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
_NAME = re.compile(r"(auto|cpu|(?:npu|cuda)(?::(\d+))?)")


def device_of(name: str) -> torch.device:
    """Return the device of that name, ready for use: `auto`, `cpu`, `npu`, `npu:N`, `cuda` or `cuda:N`.

    `auto` chooses an NPU or a CUDA device if there is one. Without a number, each rank of a machine gets its own device.
    Raises UsageError for another name, MissingCapabilityError if this machine lacks the device.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"--device {name}: expected auto, cpu, npu, npu:N, cuda or cuda:N")
    kind, number = name.partition(":")[0], found[2]
    if kind == "auto":
        kind = next((candidate for candidate in ("npu", "cuda") if _count(candidate)), "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    backend = _npu(name) if kind == "npu" else torch.cuda
    count: int = backend.device_count() if backend.is_available() else 0
    # torchrun sets LOCAL_RANK, the number of a rank on its machine.
    # The remainder: with more ranks than devices, several ranks share a device.
    index = int(number) if number else int(os.environ.get("LOCAL_RANK", "0")) % max(count, 1)
    if index >= count:
        raise MissingCapabilityError(
            f"--device {name}: torch sees {count} such devices here", hint="fa3 doctor says what this machine has"
        )
    device = torch.device(kind, index)
    backend.set_device(device)
    return device


def device_kind(device: torch.device) -> str:
    """Return the device's type and the name of its model."""
    name = getattr(_backend(device), "get_device_name", None)
    return f"{device.type}, {name(device)}" if name else device.type


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16: the 310P's NPUs don't."""
    supported = getattr(_backend(device), "is_bf16_supported", None)
    # Older torch_npu versions lack is_bf16_supported: bfloat16 is assumed there.
    return supported is None or bool(supported())


def free_memory(device: torch.device) -> None:
    """Return the memory in torch's cache to the device."""
    empty = getattr(_backend(device), "empty_cache", None)
    if empty is not None:
        empty()


def _backend(device: torch.device) -> ModuleType | None:
    """Return torch's module for a device; the CPU needs none."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def _count(kind: str) -> int:
    """Return the number of devices of a kind; 0 if its backend cannot be imported."""
    if kind == "npu" and util.find_spec("torch_npu") is None:
        return 0
    try:
        backend = _npu(kind) if kind == "npu" else torch.cuda
    except MissingCapabilityError:
        return 0
    return backend.device_count() if backend.is_available() else 0


def _npu(name: str) -> ModuleType:
    """Import torch_npu and return torch.npu, set to prebuilt operators, as others are compiled for each new shape."""
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # a driver of a wrong version raises errors of any class
        raise MissingCapabilityError(
            f"--device {name}: torch_npu cannot be imported ({brief(error)})",
            hint="pip install 'fa3cli[npu]' in the version of this torch, and source CANN's set_env.sh",
        ) from error
    npu: ModuleType = vars(torch)["npu"]  # torch_npu adds this attribute
    npu.set_compile_mode(jit_compile=False)
    return npu


def run_dtype(
    dtype: str, found: str, device: torch.device, source: Path, *, avoid_float32: bool = False
) -> torch.dtype:
    """Return the dtype of that name; for `auto` the one `found` in `source`, or float16 if the device lacks bfloat16.

    With `avoid_float32`, `auto` chooses bfloat16 instead of float32. Raises UnsupportedError for an unknown name,
    InvalidInputError if the name `found` is unknown.
    """
    if dtype not in ("auto", *RUN_DTYPES):
        raise UnsupportedError(f"--dtype {dtype}: expected auto, {', '.join(RUN_DTYPES)}")
    if dtype != "auto":
        return RUN_DTYPES[dtype]
    if found == "float32" and avoid_float32:
        found = "bfloat16"
    if found == "bfloat16" and not computes_bfloat16(device):
        found = "float16"
    if found not in RUN_DTYPES:
        raise InvalidInputError(f"{source}: dtype {found}; expected one of {', '.join(RUN_DTYPES)}")
    return RUN_DTYPES[found]
