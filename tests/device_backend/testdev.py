"""Registers the test device in this process: torch.device("testdev:0") and the module torch.testdev."""

from __future__ import annotations

import types

import torch

from tests.device_backend.build import library

__all__ = ["DEVICE", "set_limit"]

torch.ops.load_library(library())
_ops = torch.ops.fa3_test_device


def set_limit(nbytes: int) -> None:
    """Let allocations above this many bytes in all raise torch.OutOfMemoryError; 0 removes the limit."""
    _ops.set_limit(nbytes)


def _module() -> types.ModuleType:
    """Return the device type's module, with the functions that torch, accelerate and fa3 call."""
    module = types.ModuleType("torch.testdev")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = lambda device: None
    module.synchronize = lambda device=None: None
    module.empty_cache = lambda: None
    module.memory_allocated = lambda device=None: _ops.live()
    module.max_memory_allocated = lambda device=None: _ops.peak()
    module.reset_peak_memory_stats = lambda device=None: _ops.reset_peak()
    module.manual_seed_all = lambda seed: None
    module._is_in_bad_fork = lambda: False
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module.set_limit = set_limit
    return module


torch.utils.rename_privateuse1_backend("testdev")
torch._register_device_module("testdev", _module())
torch.utils.generate_methods_for_privateuse1_backend()

DEVICE = torch.device("testdev:0")
