"""Checks the dtypes and shapes in the headers for consistency, also with config.json; reads no tensors."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import is_attention_tensor, is_norm_extra, leaf_of, linears, stored
from fa3cli.exports.checks.registry import ALL, Remark, check, error, limited, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.geometry import DTYPES
from fa3cli.exports.layout import FLOAT

_READ = ("description", "weights")
_WITH_CONFIG = (*_READ, "config")


@check(
    "dtypes",
    "kernels read raw bytes: config.json's dtype decides the dtypes of deq_scale and of the scales",
    targets=ALL,
    over=stored,
    needs=_WITH_CONFIG,
    after=("foreign-tensors", "values", "linears"),
)
def dtypes(contents: Contents, name: str) -> Iterator[Remark]:
    found, model = contents.tensors[name].dtype, contents.model_dtype
    if contents.description[name] != FLOAT:
        legal = _quantized_dtypes(contents, name)
        if found not in legal:
            yield error(name, f"is {found}, expected {' or '.join(legal)} in a {model} model")
    elif found not in DTYPES and not _may_be_integer(contents, name):
        yield error(name, f"is {found}, but described as {FLOAT}")
    elif found in DTYPES and found != model and name.endswith(".weight"):
        yield warning(name, f"is {found} in a {model} model")


def _may_be_integer(contents: Contents, name: str) -> bool:
    """Tell whether a tensor is no float in the model, or is not of the model and only copied."""
    model = contents.float_model
    return model is not None and (name in model.integers or name not in model.shapes)


def _quantized_dtypes(contents: Contents, name: str) -> tuple[str, ...]:
    model, leaf = contents.model_dtype, leaf_of(name)
    # Engines cast them to the dtype of their own tensors. msModelSlim's newer savers write float32, its older one the
    # dtype of the model, or float32 for a range that float16 cannot hold.
    floats = tuple(dict.fromkeys((model, "float32")))
    if is_attention_tensor(name):
        return ("int8",) if leaf.endswith(".offset") else floats
    if is_norm_extra(name):
        return floats
    # deq_scale: kernels read float32 for a bfloat16 model, for others the same bits in an int64.
    return {
        "weight": ("int8",),
        "weight_scale": floats,
        "weight_offset": floats,
        "input_scale": floats,
        "input_offset": floats,
        "input_zero_point": ("int8",),
        "quant_bias": ("int32",),
        "deq_scale": ("float32",) if model == "bfloat16" else ("int64",),
    }[leaf]


@check(
    "linear-shapes",
    "engines copy into buffers of these shapes",
    targets=ALL,
    over=linears,
    needs=_READ,
    after=("foreign-tensors", "described", "linears", "values"),
)
def linear_shapes(contents: Contents, module: str) -> Iterator[Remark]:
    weight = contents.tensors[f"{module}.weight"].shape
    if len(weight) != 2 or 0 in weight:
        yield error(f"{module}.weight", f"has shape {list(weight)}, expected [out, in]")
        return
    rows = weight[0]
    # With mm_tensor one scale for the whole linear; `scale-a-row` reports engines that cannot read it.
    per_linear = _is_per_linear(contents, f"{module}.weight_scale")
    wanted = dict.fromkeys(("weight_scale", "weight_offset"), (1,) if per_linear else (rows, 1))
    wanted |= dict.fromkeys(("input_scale", "input_offset", "input_zero_point"), (1,))
    wanted |= dict.fromkeys(("quant_bias", "deq_scale", "bias"), (rows,))
    for tensor, shape in wanted.items():
        header = contents.tensors.get(f"{module}.{tensor}")
        if header and header.shape != shape:
            yield error(f"{module}.{tensor}", f"has shape {list(header.shape)}, expected {list(shape)}")


def _is_per_linear(contents: Contents, weight_scale: str) -> bool:
    return (header := contents.tensors.get(weight_scale)) is not None and header.shape == (1,)


@check(
    "scale-a-row",
    "Ascend engines reserve one weight scale per row; mm_tensor stores one per linear",
    needs=(*_READ, "described", "linears", "linear-shapes"),
)
def scale_a_row(contents: Contents) -> Iterator[Remark]:
    names = [f"{module}.weight_scale" for module in linears(contents)]
    if per_linear := [name for name in names if _is_per_linear(contents, name)]:
        others = f", and so are {len(per_linear) - 1} others" if len(per_linear) > 1 else ""
        yield from limited("mm-tensor", contents, per_linear[0], f"is one scale for all rows{others}")
