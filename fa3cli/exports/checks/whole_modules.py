"""Checks that quantized modules have all their tensors."""

from __future__ import annotations

from collections.abc import Iterator

from fa3cli.exports.checks.modules import attentions, linears, norms, optional_tensors
from fa3cli.exports.checks.registry import ALL, Remark, check, error
from fa3cli.exports.contents import Contents

_READ = ("description", "weights")


@check(
    "linears",
    "engines cannot build a W8A8 linear with a missing tensor, or a FLOAT one with an extra tensor",
    targets=ALL,
    over=linears,
    needs=_READ,
    after=("foreign-tensors", "values"),
)
def whole_linears(contents: Contents, module: str) -> Iterator[Remark]:
    found = [tensor for tensor in contents.target.linear_tensors if f"{module}.{tensor}" in contents.names]
    value = contents.description.get(f"{module}.weight")
    if isinstance(value, str) and value in contents.target.values:
        tensors = contents.target.tensors_of(value)
        optional = optional_tensors(contents, value)
        if missing := [tensor for tensor in tensors if tensor not in found and tensor not in optional]:
            yield error(module, f"is {value}, but has no {', '.join(missing)}")
        if extras := [tensor for tensor in found if tensor not in tensors]:
            yield error(module, f"is {value}, but has {', '.join(extras)}")
        for tensor in tensors:
            if (other := contents.description.get(f"{module}.{tensor}", value)) != value:
                yield error(f"{module}.{tensor}", f"is described as {other!r}, but the weight as {value!r}")
    else:
        extras = [tensor for tensor in found if tensor != "weight"]
        yield error(module, f"has {', '.join(extras)}, but its weight is {value or 'missing'}")


@check(
    "attentions", "an attention module must have all tensors of FA3 or none", targets=ALL, over=attentions, needs=_READ
)
def whole_attentions(contents: Contents, module: str) -> Iterator[Remark]:
    tensors = contents.form.tensors
    if missing := [tensor for tensor in tensors if f"{module}.{tensor}" not in contents.names]:
        yield error(module, f"has FA3 tensors, but no {', '.join(missing)}")


@check(
    "norms",
    "engines load weight, bias and both module.* tensors of a norm that AntiOutlier changed",
    targets=("modelslim", "mindie"),
    over=norms,
    needs=_READ,
)
def whole_norms(contents: Contents, module: str) -> Iterator[Remark]:
    wanted = [f"{module}.{tensor}" for tensor in contents.target.norm_tensors]
    if missing := [name for name in wanted if name not in contents.names]:
        yield error(module, f"has AntiOutlier's tensors, but no {', '.join(missing)}")
    shapes = {contents.tensors[name].shape for name in wanted if name in contents.tensors}
    if len(shapes) > 1:
        yield error(module, f"{', '.join(contents.target.norm_tensors)} differ in shape: {sorted(shapes)}")
