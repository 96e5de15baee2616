"""What an engine needs beside the weights: the tokenizer's files, and a config.json that says what is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fa3cli.files.reading import read_bytes

__all__ = ["companions", "exported_config"]

# What an engine needs beside the weights: tokenizer, generation defaults, the model's own code.
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
# A pipeline's has a digest in its name.
_PATCHED = re.compile(r"_fa3(_[0-9a-f]{12})?\.py$")


def companions(source: Path) -> list[Path]:
    """Return the files an engine needs beside the weights; no patched modeling file, by fa3 or by hand."""
    found = {file for pattern in _COMPANIONS for file in source.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not (_PATCHED.search(file.name) or _is_quantizing(file)))


def _is_quantizing(file: Path) -> bool:
    return file.suffix == ".py" and b"fa_quantizer" in read_bytes(file)


def exported_config(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return what an export's config.json says of the model that `config` describes, in `dtype`.

    A `quantization_config` of the float model's would replace the export's own, and an auto_map to the patched file
    would be run by servers that lack fa3cli.
    """
    exported = {key: value for key, value in config.items() if key not in ("quantization_config", "quantize")}
    auto_map = {
        auto_class: reference
        for auto_class, reference in (exported.pop("auto_map", None) or {}).items()
        if not _is_patched(reference)
    }
    if auto_map:
        exported["auto_map"] = auto_map
    for key in {"dtype", "torch_dtype"} & exported.keys() or {"torch_dtype"}:
        exported[key] = str(dtype).removeprefix("torch.")
    return exported


def _is_patched(reference: Any) -> bool:
    return isinstance(reference, str) and reference.split(".")[0].endswith("_fa3")
