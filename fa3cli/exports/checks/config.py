"""Checks the entries of config.json that engines read."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import model_values
from fa3cli.exports.checks.registry import ALL, ASCEND_LANGUAGE, Remark, check, error, error_for, limited, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.geometry import config_problems
from fa3cli.exports.limits import LIMITS

# In these models all norms are RMSNorm, which has no bias.
_RMS_NORM_MODELS = ("llama", "mistral", "qwen2", "qwen3", "internlm3")
_FILE = "config.json"


@check("config", "the dtype and the sizes in config.json decide how every tensor is read", targets=ALL)
def config(contents: Contents) -> Iterator[Remark]:
    if contents.config.data is None:
        yield error(_FILE, contents.config.problem or "is missing")
        return
    for problem in config_problems(contents.config_data):
        yield error(_FILE, problem)


@check("config-quantize", "`quantize` selects MindIE's W8A8 loader", targets=("modelslim", "mindie"), needs=("config",))
def config_quantize(contents: Contents) -> Iterator[Remark]:
    found = contents.config_data.get("quantize")
    allowed = [value.lower() for value in model_values(contents) or (contents.target.value,)]
    if found not in allowed:
        expected = " or ".join(map(repr, allowed))
        yield error_for(("mindie",), contents, _FILE, f"quantize is {found!r}, expected {expected}")


@check(
    "kernel-dtype",
    "MindIE loads no float32 model; vLLM serves it in bfloat16, which needs another form of deq_scale than the export's",
    targets=ASCEND_LANGUAGE,
    needs=("config",),
)
def kernel_dtype(contents: Contents) -> Iterator[Remark]:
    if contents.geometry.dtype == "float32":
        if contents.target.name in LIMITS["float32"].says:
            yield from limited("float32", contents, _FILE, "dtype is float32")
        else:
            yield warning(_FILE, "dtype is float32, which no Ascend engine serves; quantize with --dtype bfloat16")


@check(
    "norm-bias",
    "vLLM refuses the bias of a norm that has no bias in its model class",
    targets=("vllm",),
    needs=("config", "weights"),
)
def norm_bias(contents: Contents) -> Iterator[Remark]:
    if contents.config_data.get("model_type") in _RMS_NORM_MODELS:
        for name in contents.tensors:
            if name.endswith("norm.bias"):
                yield error(name, f"is not a tensor of vLLM's {contents.config_data['model_type']} model")
