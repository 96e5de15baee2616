"""Builds a transformer of diffusers without weights: parameters on the meta device, in the dtypes of loaded weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from fa3cli.errors import UnsupportedError, brief
from fa3cli.models.untrusted.bounded import bounded_building

__all__ = ["Transformer", "block_names", "build_transformer"]


class Transformer(Protocol):
    """A transformer of diffusers, which its class makes from the content of a config.json."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> nn.Module: ...


def build_transformer(
    transformer_class: type[Transformer], config: Mapping[str, Any], dtype: torch.dtype, tensors: int | None = None
) -> nn.Module:
    """Build a transformer from its config.json, with the dtypes and buffers that `from_pretrained` would give it.

    `tensors` is the number of tensors in its checkpoint. Raises UnsupportedError if the class cannot be built.
    """
    import diffusers
    from accelerate import init_empty_weights  # type: ignore[import-untyped]  # accelerate has no types
    from packaging.version import Version

    # Before 0.33, diffusers built models in float32 and cast everything, buffers included, after loading.
    casts_after = Version(diffusers.__version__) < Version("0.33")
    kept = getattr(transformer_class, "_keep_in_fp32_modules", None) or ()
    # These versions of diffusers keep modules in float32 only if the model is loaded in float16.
    if casts_after and dtype != torch.float16:
        kept = ()
    built_in = torch.get_default_dtype() if casts_after else dtype
    try:
        # Buffers are computed now, since checkpoints do not hold them.
        with _default_dtype(built_in), init_empty_weights(include_buffers=False), bounded_building(tensors):
            model = transformer_class.from_config(dict(config))
    except Exception as error:  # the model's own code may raise any error for a bad value
        raise UnsupportedError(
            f"diffusers {diffusers.__version__} cannot build {transformer_class.__name__} from its config.json "
            f"({brief(error)})"
        ) from error
    if casts_after and not kept:
        model.to(dtype)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            # Whole parts of the name, as diffusers compares them.
            in_float32 = any(part in name.split(".") for part in kept)
            tensor.data = tensor.data.to(torch.float32 if in_float32 else dtype)
    return model.eval()


def block_names(model: nn.Module) -> list[str]:
    """Return the names of a transformer's blocks in module order: members of its ModuleLists that hold attention modules.

    Attention modules have a processor. Raises UnsupportedError if there are no blocks.
    """
    lists = {name: list(blocks) for name, blocks in model.named_children() if isinstance(blocks, nn.ModuleList)}
    names = [
        f"{name}.{index}"
        for name, blocks in lists.items()
        if any(hasattr(module, "processor") for block in blocks for module in block.modules())
        for index in range(len(blocks))
    ]
    if not names:
        raise UnsupportedError(f"{type(model).__name__}: found no list of blocks with attention modules of diffusers")
    return names


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
