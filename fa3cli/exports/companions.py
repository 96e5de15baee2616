"""Finds the files that an engine needs beside the weights, and makes the export's config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fa3cli.files.reading import read_bytes

__all__ = ["companions", "exported_config"]

# Tokenizer, generation defaults, the model's own code (engines run it with trust_remote_code) and its license.
_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
)
# Names of patched files; those of a pipeline contain a digest.
_PATCHED = re.compile(r"_fa3(_[0-9a-f]{12})?\.py$")


def companions(source: Path) -> list[Path]:
    """Return the files that an engine needs beside the weights, without modeling files patched by fa3 or by hand."""
    found = {file for pattern in _COMPANIONS for file in source.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not (_PATCHED.search(file.name) or _is_quantizing(file)))


def _is_quantizing(file: Path) -> bool:
    return file.suffix == ".py" and b"fa_quantizer" in read_bytes(file)


def exported_config(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return an export's config.json from the float model's `config`, with `dtype` as its dtype."""
    # Engines would read the float model's quantization_config instead of the export's description.
    exported = {key: value for key, value in config.items() if key not in ("quantization_config", "quantize")}
    # A server has no fa3cli, so it could not import the patched file.
    auto_map = {
        auto_class: reference
        for auto_class, reference in (exported.pop("auto_map", None) or {}).items()
        if not _is_patched(reference)
    }
    if auto_map:
        exported["auto_map"] = auto_map
    # Newer transformers versions write dtype, older ones torch_dtype; a config may have both.
    for key in {"dtype", "torch_dtype"} & exported.keys() or {"torch_dtype"}:
        exported[key] = str(dtype).removeprefix("torch.")
    return exported


def _is_patched(reference: Any) -> bool:
    return isinstance(reference, str) and reference.split(".")[0].endswith("_fa3")
