"""Checks the values of scales, offsets and float tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fa3cli.exports.checks.modules import is_attention_tensor, is_norm_extra, static_linears, stored
from fa3cli.exports.checks.registry import ALL, ASCEND_LANGUAGE, Remark, check, error, warning
from fa3cli.exports.contents import Contents
from fa3cli.exports.layout import FLOAT

if TYPE_CHECKING:
    from torch import Tensor

_READ = ("description", "weights", "config")
_SOUND = ("foreign-tensors", "dtypes", "linear-shapes", "fa-shapes", "fa-heads", "kv-shapes", "fp8-shapes")


def _scales(contents: Contents) -> list[str]:
    kinds = (".weight_scale", ".input_scale")
    return [name for name in stored(contents) if name.endswith(kinds) or _is_attention(name, "scale")]


def _offsets(contents: Contents) -> list[str]:
    kinds = (".weight_offset", ".input_offset")
    return [name for name in stored(contents) if name.endswith(kinds) or _is_attention(name, "offset")]


def _is_attention(name: str, kind: str) -> bool:
    return name.endswith(kind) and is_attention_tensor(name)


def _floats(contents: Contents) -> list[str]:
    """Return the float tensors: embeddings, norms, biases, linears that stayed float."""
    return [name for name in stored(contents) if contents.description[name] == FLOAT or is_norm_extra(name)]


@check(
    "scales",
    "a scale that is 0, negative, infinite or NaN turns the whole output into noise",
    targets=ALL,
    over=_scales,
    needs=_READ,
    after=_SOUND,
)
def scales(contents: Contents, name: str) -> Iterator[Remark]:
    scale = contents.read(name).float()
    bad = ~(scale.isfinite() & (scale > 0))
    if bad.any():
        yield error(name, f"{_first(scale, bad)}; expected a finite value above 0")


@check(
    "offsets",
    "kernels treat weights, q, k and v as symmetric, and input_offset as int8",
    over=_offsets,
    needs=_READ,
    after=_SOUND,
)
def offsets(contents: Contents, name: str) -> Iterator[Remark]:
    offset = contents.read(name).float()
    if name.endswith(".input_offset"):
        bad = ~((offset == offset.round()) & (offset >= -128) & (offset <= 127))
        wanted = "a whole number from -128 to 127"
    else:
        bad, wanted = offset != 0, "0"
    if bad.any():
        yield error(name, f"{_first(offset, bad)}; expected {wanted}")


@check(
    "deq-scale",
    "deq_scale is input_scale * weight_scale, packed for the kernels of the model's dtype",
    targets=ASCEND_LANGUAGE,
    over=static_linears,
    needs=_READ,
    after=(*_SOUND, "linears", "described", "scales"),
)
def deq_scale(contents: Contents, module: str) -> Iterator[Remark]:
    import torch

    from fa3cli.numerics.deq_scale import unpack_deq_scale

    name = f"{module}.deq_scale"
    packed = contents.read(name)
    if packed.dtype == torch.int64 and not torch.equal(packed, packed.to(torch.int32).long()):
        yield error(name, "is not the bit pattern of a float32, sign-extended to int64")
        return
    found = unpack_deq_scale(packed)
    # msModelSlim's newer savers store no weight_scale.
    compare = _unlike_the_product if f"{module}.weight_scale" in contents.tensors else _no_scale
    problems = list(compare(contents, module, found))
    yield from (error(name, problem) for problem in problems)
    if not problems and (zeros := int((found == 0).sum())):
        yield warning(name, f"underflows to 0 in float16 in {zeros} rows, whose outputs are wrong")


def _unlike_the_product(contents: Contents, module: str, found: Tensor) -> Iterator[str]:
    import torch

    product = contents.read(f"{module}.input_scale").float() * contents.read(f"{module}.weight_scale").float().flatten()
    dtype = getattr(torch, contents.model_dtype)
    # The reference multiplies in the model's dtype, which rounds the product once; float16 may underflow.
    tolerance = torch.finfo(dtype).eps * product
    if dtype == torch.float16:
        tolerance += torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    product = product.expand(found.shape)  # with mm_tensor there is one weight_scale for all rows
    bad = ~((found - product).abs() <= tolerance)
    if bad.any():
        row = int(bad.nonzero()[0])
        yield f"row {row} decodes to {found[row]:.6g}, expected {product[row]:.6g}"


def _no_scale(_contents: Contents, _module: str, found: Tensor) -> Iterator[str]:
    bad = ~(found.isfinite() & (found >= 0))
    if bad.any():
        yield f"{_first(found, bad)}; expected a finite value above 0"


@check(
    "finite", "a NaN in a float tensor reaches every token", targets=ALL, over=_floats, needs=_READ, after=("dtypes",)
)
def finite(contents: Contents, name: str) -> Iterator[Remark]:
    values = contents.read(name)
    # Minimum and maximum are NaN if any value is; unlike isfinite(), aminmax allocates no tensor of the same size.
    if values.numel() and not all(bound.isfinite() for bound in values.aminmax()):
        yield error(name, f"{_first(values, ~values.isfinite())}; expected finite values")


def _first(values: Tensor, bad: Tensor) -> str:
    place = bad.nonzero()[0].tolist()
    return f"is {values[tuple(place)]:.6g} at {place}"
