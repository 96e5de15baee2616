"""Checks of what an export cannot be split into, or run with: never wrong by itself, but known before a server is rented."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.targets.vllm_ascend import kernel_remarks
from fa3cli.exports.tensor_parallel import head_remarks, undivided

_FILE = "config.json"


@check(
    "tensor-parallel",
    "engines refuse to split a model over devices that its heads or its MLP don't divide by",
    targets=LANGUAGE,
    needs=("config",),
)
def tensor_parallel(contents: Contents) -> Iterator[Remark]:
    for remark in undivided(contents.geometry):
        yield warning(_FILE, remark)


@check(
    "kv-kernels",
    "kernels of vLLM-Ascend's int8 KV cache take heads of 32 channels or a multiple, up to 0.18 bfloat16 alone",
    targets=("vllm-ascend",),
    needs=("description", "weights", "config"),
)
def kv_kernels(contents: Contents) -> Iterator[Remark]:
    if attentions(contents):
        for remark in kernel_remarks(contents.geometry.head_dim, contents.geometry.dtype):
            yield warning(_FILE, remark)


@check(
    "mindie-turbo",
    "it reads the same FA3 tensors as MindIE, for fewer models",
    targets=("modelslim", "mindie"),
    needs=("description", "weights", "config"),
)
def mindie_turbo(contents: Contents) -> Iterator[Remark]:
    if attentions(contents):
        for remark in head_remarks(contents.geometry):
            yield warning(_FILE, remark)
