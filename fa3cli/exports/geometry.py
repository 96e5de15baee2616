"""Reads the sizes and the dtype of a decoder, or of a diffusion pipeline's transformer, from config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["DTYPES", "Geometry", "config_problems", "read_geometry"]

DTYPES = ("bfloat16", "float16", "float32")
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "head_dim",
    "attention_head_dim",
    "vocab_size",
)
# With these keys the projections are not heads * head_dim wide: the attention is latent or gated, or its sizes differ
# between layers (in diffusers between modules).
_UNUSUAL_ATTENTION = (
    *("kv_lora_rank", "attn_output_gate", "global_head_dim"),
    *("num_cross_attention_heads", "audio_num_attention_heads", "text_num_attention_heads"),
)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model; None if config.json does not state a size, or no simple formula gives it."""

    dtype: str | None
    layers: int | None
    extra_layers: int
    vocab: int | None
    hidden: int | None
    intermediate: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    latent_heads: int | None = None
    """The heads of Q of multi-head latent attention; None for other attention."""


def read_geometry(config: dict[str, Any]) -> Geometry:
    """Return the sizes in a config without `config_problems`; for a composite model, those in `text_config`."""
    text = _text_config(config)
    hidden, heads, head_dim = (_size(text.get(key)) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if head_dim is None:  # as diffusers names it
        head_dim = _size(text.get("attention_head_dim"))
    # transformers' default without the key: one KV head per query head.
    kv_heads = heads if text.get("num_key_value_heads") is None else _size(text["num_key_value_heads"])
    if head_dim is None and hidden and heads and hidden % heads == 0:
        head_dim = hidden // heads
    latent_heads = heads if text.get("kv_lora_rank") else None
    if any(text.get(key) for key in _UNUSUAL_ATTENTION):
        heads = kv_heads = head_dim = None
    return Geometry(
        dtype=next(iter(_dtypes(config)), None),
        layers=_size(text.get("num_hidden_layers")),
        extra_layers=_size(text.get("num_nextn_predict_layers")) or 0,
        vocab=_size(text.get("vocab_size")),
        hidden=hidden,
        intermediate=_size(text.get("intermediate_size")),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        latent_heads=latent_heads,
    )


def config_problems(config: dict[str, Any]) -> list[str]:
    """Return one message per invalid size or dtype."""
    text = _text_config(config)
    problems = [
        f"{key} is {text[key]!r}, expected a whole number above 0"
        for key in _SIZES
        if text.get(key) is not None and not isinstance(text[key], list) and _size(text[key]) is None
    ]
    dtypes = _dtypes(config)
    if not dtypes:
        problems.append("has neither torch_dtype nor dtype, which decides the dtype of every scale")
    elif len(dtypes) > 1:
        problems.append(f"torch_dtype and dtype differ: {', '.join(sorted(dtypes))}")
    problems += [f"dtype {name} is not one of {', '.join(DTYPES)}" for name in dtypes if name not in DTYPES]
    return problems


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _dtypes(config: dict[str, Any]) -> list[str]:
    """Return the distinct dtypes, without `torch.`; a composite model may have them in text_config only."""
    for part in (config, _text_config(config)):
        named = [part[key] for key in ("torch_dtype", "dtype") if part.get(key) is not None]
        if named:
            return list(dict.fromkeys(str(name).removeprefix("torch.") for name in named))
    return []


def _size(value: Any) -> int | None:
    # bool is a subclass of int.
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
