"""Checks that read every int8 weight, once and in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fa3cli.exports.checks.modules import linears
from fa3cli.exports.checks.registry import ALL, ASCEND_LANGUAGE, Remark, check, error
from fa3cli.exports.contents import Contents

if TYPE_CHECKING:
    from fa3cli.exports.row_sums import Rows

_AFTER = ("foreign-tensors", "described", "linears", "dtypes", "linear-shapes")
_LARGEST = 2.0**31


@check(
    "weight-range",
    "symmetric int8 ends at -127; -128 in a weight comes from damage, or from another tool",
    targets=ALL,
    over=linears,
    needs=("description", "weights", "config"),
    after=_AFTER,
)
def weight_range(contents: Contents, module: str) -> Iterator[Remark]:
    if _rows(contents, module).lowest < -127:
        yield error(f"{module}.weight", "holds -128, expected -127 to 127")


@check(
    "quant-bias",
    "it must undo the input's offset for these very weights: else one of the two is damaged or another's",
    targets=ASCEND_LANGUAGE,
    over=linears,
    needs=("description", "weights", "config"),
    after=(*_AFTER, "scales", "offsets", "deq-scale", "finite", "weight-range"),
)
def quant_bias(contents: Contents, module: str) -> Iterator[Remark]:
    """Compare with `bias / deq_scale - rowsum(weight) * input_offset`.

    The reference rounds it once, we round the quotient first; both in float32, whose steps grow with the terms.
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
    tolerance = 0.51 + 2**-22 * (own.abs() + shift.abs())
    # Where deq_scale underflows to 0 the quotient is no number, and the check of deq_scale says so.
    bad = ((found - expected).abs() > tolerance) & (deq_scale != 0) & (expected.abs() < _LARGEST)
    if rows := bad.nonzero().flatten().tolist():
        yield error(
            f"{module}.quant_bias",
            f"row {rows[0]} is {int(found[rows[0]])}, expected {expected[rows[0]]:.6g} from weight, bias and "
            f"input_offset; {len(rows)} of {len(found)} rows differ",
        )


def _rows(contents: Contents, module: str) -> Rows:
    """What a pass over the rows of a weight tells, kept for the next check: four bytes a row."""
    from fa3cli.exports.row_sums import read_rows

    name = f"{module}.weight"
    if name not in contents.cache:
        shape = contents.tensors[name].shape
        contents.cache[name] = read_rows(lambda rows: contents.read_rows(name, rows), shape)
    return contents.cache[name]
