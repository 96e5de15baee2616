"""Checks the values of all int8 weights, which are read once and in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fa3cli.exports.checks.modules import linears, static_linears
from fa3cli.exports.checks.registry import ALL, ASCEND_LANGUAGE, Remark, check, error
from fa3cli.exports.contents import Contents

if TYPE_CHECKING:
    from fa3cli.exports.row_sums import RowSums

_AFTER = ("foreign-tensors", "described", "linears", "dtypes", "linear-shapes")
# The reference's cast to int32 overflows from here.
_LARGEST = 2.0**31


@check(
    "weight-range",
    "symmetric int8 ends at -127; a weight of -128 is damaged, or comes from another tool",
    targets=ALL,
    over=linears,
    needs=("description", "weights", "config"),
    after=_AFTER,
)
def weight_range(contents: Contents, module: str) -> Iterator[Remark]:
    # In bfloat16 a quotient of -127.4 becomes -127.5, which is rounded to -128.
    if _rows(contents, module).lowest < -127 and not contents.target.in_model_dtype:
        yield error(f"{module}.weight", "holds -128, expected -127 to 127")


@check(
    "quant-bias",
    "quant_bias must cancel the input's offset for these weights: else one of them is damaged or of another linear",
    targets=ASCEND_LANGUAGE,
    over=static_linears,
    needs=("description", "weights", "config"),
    after=(*_AFTER, "scales", "offsets", "deq-scale", "finite", "weight-range"),
)
def quant_bias(contents: Contents, module: str) -> Iterator[Remark]:
    """Compare with `bias / deq_scale - rowsum(weight) * input_offset`.

    The reference rounds the difference, fa3 rounds the quotient first. Both compute in float32, whose error grows with
    the terms; msModelSlim's newer savers compute the quotient in the model's dtype.
    """
    import torch

    from fa3cli.numerics.deq_scale import unpack_deq_scale

    found = contents.read(f"{module}.quant_bias").double()
    deq_scale = unpack_deq_scale(contents.read(f"{module}.deq_scale")).double()
    shift = torch.from_numpy(_rows(contents, module).sums).double()
    shift = shift * contents.read(f"{module}.input_offset").double()
    bias = f"{module}.bias"
    own = contents.read(bias).double() / deq_scale if bias in contents.tensors else torch.zeros_like(shift)
    expected = own - shift
    # 0.51 for the last rounding to a whole number, 2**-22 for the errors of float32.
    tolerance = 0.51 + 2**-22 * (own.abs() + shift.abs())
    if contents.target.in_model_dtype:
        tolerance += torch.finfo(getattr(torch, contents.model_dtype)).eps / 2 * own.abs()
    # Where deq_scale underflows to 0 the quotient is not finite; the check `deq-scale` reports these rows.
    bad = ((found - expected).abs() > tolerance) & (deq_scale != 0) & (expected.abs() < _LARGEST)
    if rows := bad.nonzero().flatten().tolist():
        yield error(
            f"{module}.quant_bias",
            f"row {rows[0]} is {int(found[rows[0]])}, expected {expected[rows[0]]:.6g} from weight, bias and "
            f"input_offset; {len(rows)} of {len(found)} rows differ",
        )


def _rows(contents: Contents, module: str) -> RowSums:
    """Return the row sums of a weight, cached for the next check in four bytes per row."""
    from fa3cli.exports.row_sums import sum_rows

    name = f"{module}.weight"
    if name not in contents.cache:
        rows, columns = contents.tensors[name].shape
        contents.cache[name] = sum_rows(lambda part: contents.read_rows(name, part), (rows, columns))
    sums: RowSums = contents.cache[name]
    return sums
