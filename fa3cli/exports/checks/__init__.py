"""Registers all checks of `fa3 verify` when it is imported."""

from importlib import import_module

from fa3cli.exports.checks.registry import CHECKS

__all__ = ["CHECKS"]

# In the order in which checks run: a check is registered after the checks in its `needs` and `after`.
_MODULES = (
    *("files", "folder", "config", "remote_code", "model_entries", "description", "whole_modules"),
    *("quantization_config", "compressed_tensors", "attention_shapes", "shapes", "config_sizes"),
    *("numbers", "engine_numbers", "rows", "fallback", "tensor_parallel", "as_written"),
)
for _name in _MODULES:
    import_module(f"{__name__}.{_name}")
