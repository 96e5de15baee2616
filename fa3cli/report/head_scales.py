"""Finds the scales of q, k and v, under whichever of the three names the export's target has for them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from safetensors import SafetensorError
from torch import Tensor

from fa3cli.errors import brief
from fa3cli.exports.contents import Contents, Header
from fa3cli.report.facts import HeadScales
from fa3cli.report.names import layer_of, module_order

__all__ = ["FLOAT8_CODE", "INT8_CODE", "Remark", "largest_code", "read_head_scales"]

Remark = str
INT8_CODE, FLOAT8_CODE = 127, 448
_LARGEST = 65536  # values of a scale tensor that is worth reading
# modelslim and mindie [heads, 1]; vllm-ascend [kv_heads * head_dim]; vllm [heads, 1, 1]
_NAMES = tuple(
    re.compile(rf"(?P<module>.+)\.{leaf}")
    for leaf in (
        r"fa_(?P<role>[qkv])\.scale",
        r"(?P<role>[kv])_proj\.kv_cache_scale",
        r"(?P<role>[qkv])_scale",
    )
)


def read_head_scales(contents: Contents) -> tuple[list[HeadScales], list[Remark]]:
    """Return the scales of every attention module, in the order of the modules, and what is odd about them."""
    found, remarks = [], []
    for name, module, role in _wanted(contents):
        values, problem = _per_head(name, contents)
        if problem:
            remarks.append(f"{name}: {problem}")
        if values:
            layer = layer_of(module) or module
            found.append(HeadScales(layer, module, role, name, values))
    return sorted(found, key=lambda scales: (module_order(scales.module), "qkv".index(scales.role))), remarks


def largest_code(scales: list[HeadScales]) -> int:
    """Return what the target's codes reach: vllm's scales are those of float8, all others of int8."""
    return FLOAT8_CODE if any(_NAMES[2].fullmatch(each.tensor) for each in scales) else INT8_CODE


def _wanted(contents: Contents) -> Iterator[tuple[str, str, str]]:
    """Yield name, module and role of each scale tensor, file by file, so that each is opened once."""
    for name in sorted(contents.tensors, key=lambda name: contents.tensors[name].file):
        match = next(filter(None, (pattern.fullmatch(name) for pattern in _NAMES)), None)
        if match:
            yield name, match["module"], match["role"]


def _per_head(name: str, contents: Contents) -> tuple[tuple[float | None, ...], str | None]:
    """Read one scale a head, and say what is wrong with them."""
    header = contents.tensors[name]
    if problem := _unreadable(header):
        return (), problem
    try:
        tensor = contents.read(name).flatten().float()
    except (SafetensorError, OSError, RuntimeError) as error:
        return (), f"cannot be read: {brief(error)}"
    if name.endswith("kv_cache_scale"):
        kv_heads = contents.geometry.kv_heads
        if not kv_heads or len(tensor) % kv_heads:
            return (), f"has {len(tensor)} values, and config.json does not tell for how many heads"
        tensor = _of_heads(tensor, kv_heads)
    values = tuple(value if math.isfinite(value) else None for value in tensor.tolist())
    bad = [head for head, value in enumerate(values) if value is None or value <= 0]
    return values, f"the scale of head {bad[0]} is not a number above 0; run fa3 verify" if bad else None


def _unreadable(header: Header) -> str | None:
    size = math.prod(header.shape)
    if 0 < size <= _LARGEST:
        return None
    return f"has the shape {list(header.shape)}, expected one scale a head"


def _of_heads(tensor: Tensor, kv_heads: int) -> Tensor:
    """[kv_heads * head_dim] -> [kv_heads]: a head's scale stands at each of its channels."""
    return tensor.reshape(kv_heads, -1).amax(1)
