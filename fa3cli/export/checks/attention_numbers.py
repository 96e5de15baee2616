"""Checks of values that FA3 gives attention modules for vLLM-Ascend's KV cache."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.export.checks.modules import attentions
from fa3cli.export.checks.registry import Remark, check, error
from fa3cli.export.contents import Contents


@check(
    "kv-heads",
    "FA3 measures a scale a head; one that changes within a head was put in the wrong order",
    targets=("vllm-ascend",),
    over=attentions,
    needs=("description", "weights", "config"),
    after=(
        "foreign-tensors",
        "described",
        "attentions",
        "values",
        "kv-shapes",
        "config-sizes",
        "dtypes",
        "scales",
    ),
)
def kv_heads(contents: Contents, module: str) -> Iterator[Remark]:
    head_dim = contents.geometry.head_dim
    for leaf in contents.target.attention_tensors:
        scale = contents.read(f"{module}.{leaf}")
        if not leaf.endswith("_scale") or head_dim is None or len(scale) % head_dim:
            continue
        heads = scale.view(-1, head_dim)
        if uneven := (heads != heads[:, :1]).any(1).nonzero().flatten().tolist():
            yield error(f"{module}.{leaf}", f"is not the same for all channels of head {uneven[0]}")
