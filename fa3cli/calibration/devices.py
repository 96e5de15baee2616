"""The device a run computes on: found by name, set up, and what it can do."""

from __future__ import annotations

import importlib
import os
import re
from importlib import util
from types import ModuleType

import torch

from fa3cli.errors import MissingCapabilityError, UsageError, brief

__all__ = ["computes_bfloat16", "device_kind", "device_of", "free_memory"]

_NAME = re.compile(r"(auto|cpu|(?:npu|cuda)(?::(\d+))?)")


def device_of(name: str) -> torch.device:
    """Return the device of that name, ready for use: `auto`, `cpu`, `npu`, `cuda`, the last two with a number or without.

    `auto` is an NPU or a CUDA device where there is one. Without a number, each rank of a machine has one of its own.
    Raises UsageError for another name, MissingCapabilityError where this machine lacks the device.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"--device {name}: expected auto, cpu, npu, npu:N, cuda or cuda:N")
    kind, number = name.partition(":")[0], found[2]
    if kind == "auto":
        kind = next((each for each in ("npu", "cuda") if _count(each)), "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    backend = _npu(name) if kind == "npu" else torch.cuda
    count = backend.device_count() if backend.is_available() else 0
    index = int(number) if number else int(os.environ.get("LOCAL_RANK", "0")) % max(count, 1)
    if index >= count:
        raise MissingCapabilityError(
            f"--device {name}: torch sees {count} such devices here",
            hint="fa3 doctor says what this machine has",
        )
    device = torch.device(kind, index)
    backend.set_device(device)
    return device


def device_kind(device: torch.device) -> str:
    """Return what kind of device this is, its model's name with it."""
    name = getattr(_backend(device), "get_device_name", None)
    return f"{device.type}, {name(device)}" if name else device.type


def computes_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16: the 310P's NPUs don't."""
    supported = getattr(_backend(device), "is_bf16_supported", None)
    return supported is None or bool(supported())


def free_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    empty = getattr(_backend(device), "empty_cache", None)
    if empty is not None:
        empty()


def _backend(device: torch.device) -> ModuleType | None:
    """Return torch's module for a device; the CPU needs none."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def _count(kind: str) -> int:
    """Return how many devices of a kind there are, without complaint."""
    if kind == "npu" and util.find_spec("torch_npu") is None:
        return 0
    try:
        backend = _npu(kind) if kind == "npu" else torch.cuda
    except MissingCapabilityError:
        return 0
    return backend.device_count() if backend.is_available() else 0


def _npu(name: str) -> ModuleType:
    """Return torch.npu, imported and told to run operators as they are, not to compile each shape anew."""
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # a driver that does not fit raises what it likes
        raise MissingCapabilityError(
            f"--device {name}: torch_npu cannot be imported ({brief(error)})",
            hint="pip install 'fa3cli[npu]' in the version of this torch, and source CANN's set_env.sh",
        ) from error
    torch.npu.set_compile_mode(jit_compile=False)
    return torch.npu
