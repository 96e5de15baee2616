"""Finds the scales of q, k and v, which have one of three names depending on the target."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from safetensors import SafetensorError

from fa3cli.errors import brief
from fa3cli.exports.contents import Contents, Header
from fa3cli.report.facts import HeadScales
from fa3cli.report.names import layer_of, module_order

__all__ = ["FLOAT8_CODE", "INT8_CODE", "Remark", "largest_code", "read_head_scales"]

Remark = str
INT8_CODE, FLOAT8_CODE = 127, 448
_LARGEST = 65536  # values; a larger tensor can't be scales
# modelslim and mindie [heads, 1]; vllm-ascend [kv_heads * head_dim]; vllm [heads, 1, 1]
_NAMES = tuple(
    re.compile(rf"(?P<module>.+)\.{leaf}")
    for leaf in (r"fa_(?P<role>[qkv])\.scale", r"(?P<role>[kv])_proj\.kv_cache_scale", r"(?P<role>[qkv])_scale")
)


def read_head_scales(contents: Contents) -> tuple[list[HeadScales], list[Remark]]:
    """Return the scales of all attention modules, in the order of the modules, and remarks on invalid scales."""
    found, remarks = [], []
    for name, module, role in _scale_tensors(contents):
        values, problem = _per_head(name, contents)
        if problem:
            remarks.append(f"{name}: {problem}")
        if values:
            layer = layer_of(module) or module
            found.append(HeadScales(layer, module, role, name, values))
    return sorted(found, key=lambda scales: (module_order(scales.module), "qkv".index(scales.role))), remarks


def largest_code(scales: list[HeadScales]) -> int:
    """Return the target's largest code: scales for vllm are for float8, all others for int8."""
    return FLOAT8_CODE if any(_NAMES[2].fullmatch(scale.tensor) for scale in scales) else INT8_CODE


def _scale_tensors(contents: Contents) -> Iterator[tuple[str, str, str]]:
    """Yield name, module and role of each scale tensor, ordered by file, so that each file is opened once."""
    for name in sorted(contents.tensors, key=lambda name: contents.tensors[name].file):
        match = next(filter(None, (pattern.fullmatch(name) for pattern in _NAMES)), None)
        if match:
            yield name, match["module"], match["role"]


def _per_head(name: str, contents: Contents) -> tuple[tuple[float | None, ...], str | None]:
    """Return the scales of a tensor, one per head, and a problem if there is one."""
    if problem := _shape_problem(contents.tensors[name]):
        return (), problem
    try:
        tensor = contents.read(name).flatten().float()
    except (SafetensorError, OSError, RuntimeError) as error:
        return (), f"cannot be read: {brief(error)}"
    if name.endswith("kv_cache_scale"):
        kv_heads = contents.geometry.kv_heads
        if not kv_heads or len(tensor) % kv_heads:
            return (), f"has {len(tensor)} values, but config.json does not say for how many heads"
        # [kv_heads * head_dim] -> [kv_heads]: the largest of a head's channels
        tensor = tensor.reshape(kv_heads, -1).amax(1)
    values = tuple(value if math.isfinite(value) else None for value in tensor.tolist())
    bad = [head for head, value in enumerate(values) if value is None or value <= 0]
    return values, f"the scale of head {bad[0]} is not a number above 0; run fa3 verify" if bad else None


def _shape_problem(header: Header) -> str | None:
    if 0 < math.prod(header.shape) <= _LARGEST:
        return None
    return f"has the shape {list(header.shape)}, expected one scale per head"
