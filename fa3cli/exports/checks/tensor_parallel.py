"""Warns of numbers of devices, and of kernels, with which a valid export cannot be served."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.limits import LIMITS
from fa3cli.exports.targets.selection import Selection

_FILE = "config.json"


@check(
    "tensor-parallel",
    "engines divide heads and channels equally over devices: else they refuse the size, or heads get no FA3 scales",
    targets=LANGUAGE,
    needs=("description", "weights", "config"),
)
def tensor_parallel(contents: Contents) -> Iterator[Remark]:
    yield from _limits(contents, "atb-heads", "uneven", "uneven-linears")


@check(
    "kv-kernels",
    "vLLM-Ascend's int8 KV cache needs a head_dim that is a multiple of 32, and up to 0.18 bfloat16",
    targets=("vllm-ascend",),
    needs=("description", "weights", "config"),
)
def kv_kernels(contents: Contents) -> Iterator[Remark]:
    yield from _limits(contents, "c8-head-dim", "c8-float16")


@check(
    "mindie-turbo",
    "mindie-turbo reads the same FA3 tensors as MindIE, but supports fewer models",
    targets=("modelslim", "mindie"),
    needs=("description", "weights", "config"),
)
def mindie_turbo(contents: Contents) -> Iterator[Remark]:
    yield from _limits(contents, "turbo-head-dim", "turbo-kv-heads")


def _limits(contents: Contents, *names: str) -> Iterator[Remark]:
    """Yield the limits that depend on the sizes and the dtype in config.json."""
    found = attentions(contents)
    selection = Selection(contents.config_data, contents.model_dtype, contents.names, (), {}, found, len(found))
    for name in names:
        for message in LIMITS[name].messages(contents.target.name, selection):
            yield warning(_FILE, message)
