"""Warns of numbers of devices and of kernels that a valid export cannot be served with."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions
from fa3cli.exports.checks.registry import LANGUAGE, Remark, check, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.targets.vllm_ascend import kv_kernel_remarks
from fa3cli.exports.tensor_parallel import mindie_turbo_remarks, split_remarks

_FILE = "config.json"


@check(
    "tensor-parallel",
    "engines refuse to split a model over a number of devices that does not divide its heads or its MLP",
    targets=LANGUAGE,
    needs=("config",),
)
def tensor_parallel(contents: Contents) -> Iterator[Remark]:
    for remark in split_remarks(contents.geometry):
        yield warning(_FILE, remark)


@check(
    "kv-kernels",
    "vLLM-Ascend's int8 KV cache needs a head_dim that is a multiple of 32, and up to 0.18 bfloat16",
    targets=("vllm-ascend",),
    needs=("description", "weights", "config"),
)
def kv_kernels(contents: Contents) -> Iterator[Remark]:
    if attentions(contents):
        for remark in kv_kernel_remarks(contents.geometry.head_dim, contents.geometry.dtype):
            yield warning(_FILE, remark)


@check(
    "mindie-turbo",
    "it reads the same FA3 tensors as MindIE, for fewer models",
    targets=("modelslim", "mindie"),
    needs=("description", "weights", "config"),
)
def mindie_turbo(contents: Contents) -> Iterator[Remark]:
    if attentions(contents):
        for remark in mindie_turbo_remarks(contents.geometry):
            yield warning(_FILE, remark)
