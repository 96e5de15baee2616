"""A transformer of diffusers without its weights: parameters on the meta device, in the dtypes they will be loaded in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fa3cli.calibration.bounded import bounded_building
from fa3cli.errors import UnsupportedError, brief

__all__ = ["block_names", "build_transformer"]


def build_transformer(
    transformer_class: type[nn.Module],
    config: Mapping[str, Any],
    dtype: torch.dtype,
    tensors: int | None = None,
) -> nn.Module:
    """Build a transformer from its config.json, its dtypes and buffers those that `from_pretrained` gives it.

    Its checkpoint holds that many `tensors`. Raises UnsupportedError where the class can't be built of that.
    """
    import diffusers
    from accelerate import init_empty_weights
    from packaging.version import Version

    # Until then diffusers built models in float32 and cast all of them, buffers included, behind loading.
    casts_behind = Version(diffusers.__version__) < Version("0.33")
    kept = getattr(transformer_class, "_keep_in_fp32_modules", None) or ()
    if casts_behind and dtype != torch.float16:
        kept = ()
    built_in = torch.get_default_dtype() if casts_behind else dtype
    try:
        with _default_dtype(built_in), init_empty_weights(include_buffers=False), bounded_building(tensors):
            model = transformer_class.from_config(dict(config))
    except Exception as error:  # the model's own code: what a value it cannot take raises is up to it
        raise UnsupportedError(
            f"diffusers {diffusers.__version__} cannot build {transformer_class.__name__} from its config.json "
            f"({brief(error)})"
        ) from error
    if casts_behind and not kept:
        model.to(dtype)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            in_float32 = any(each in name.split(".") for each in kept)
            tensor.data = tensor.data.to(torch.float32 if in_float32 else dtype)
    return model.eval()


def block_names(model: nn.Module) -> list[str]:
    """Return the names of a transformer's blocks, in module order: members of its own lists that hold attention.

    Attention modules are told by their processor. Raises UnsupportedError where there are none.
    """
    lists = {
        name: list(blocks) for name, blocks in model.named_children() if isinstance(blocks, nn.ModuleList)
    }
    names = [
        f"{name}.{index}"
        for name, blocks in lists.items()
        if any(hasattr(module, "processor") for block in blocks for module in block.modules())
        for index in range(len(blocks))
    ]
    if not names:
        raise UnsupportedError(
            f"{type(model).__name__}: no list of blocks found that hold attention modules of diffusers"
        )
    return names


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
