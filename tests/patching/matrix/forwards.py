"""What is run of a model, native or patched: four ways to ask it, and every tensor it answers with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["BATCH", "LENGTHS", "WAYS", "Answer", "answer"]

BATCH, PROMPT, STEPS = 2, 8, 2
# What attention sees: a prompt may be prefixed, scores may have a sink. No size of a tiny model is one of these.
LENGTHS = range(PROMPT, PROMPT + STEPS + 3)

# Every tensor by its path, or why the model can't be asked this way.
Answer = dict[str, torch.Tensor] | str


@torch.no_grad()
def answer(model: nn.Module, way: str) -> Answer:
    """Ask a model one of the WAYS."""
    try:
        return {path: tensor.clone() for path, tensor in _tensors(WAYS[way](model))}
    except Exception as error:  # noqa: BLE001 - some native models can't run this way at all
        return f"{type(error).__name__}: {error}"


def _plain(model: nn.Module) -> dict[str, Any]:
    return {"logits": _call(model, input_ids=_ids()[:, :PROMPT], use_cache=False).logits}


def _cached(model: nn.Module) -> dict[str, Any]:
    step = _call(model, input_ids=_ids()[:, :PROMPT], use_cache=True)
    logits = [step.logits]
    for at in range(PROMPT, PROMPT + STEPS):
        past = {"past_key_values": step.past_key_values, "use_cache": True}
        mask = torch.ones(BATCH, at + 1, dtype=torch.long)
        step = model(input_ids=_ids()[:, at : at + 1], attention_mask=mask, **past)
        logits.append(step.logits)
    return {"logits": torch.cat(logits, dim=1), "cache": step.past_key_values}


def _generated(model: nn.Module) -> dict[str, Any]:
    how = {"max_new_tokens": STEPS + 1, "min_new_tokens": STEPS + 1, "do_sample": False, "num_beams": 1}
    kept = {"return_dict_in_generate": True, "output_logits": True}
    prompt = _ids()[:, :PROMPT]
    masked = "attention_mask" in inspect.signature(model.forward).parameters
    mask = {"attention_mask": torch.ones_like(prompt)} if masked else {}
    made = model.generate(prompt, **mask, **how, **kept)
    return {"logits": torch.stack(made.logits, dim=1), "cache": getattr(made, "past_key_values", None)}


def _attended(model: nn.Module) -> dict[str, Any]:
    step = _call(model, input_ids=_ids()[:, :PROMPT], use_cache=False, output_attentions=True)
    return {"logits": step.logits, "weights": step.attentions}


# Without a cache; with one, token by token, and the cache it leaves; the same by `generate`, which knows how each
# model wants its cache; with the attention weights, for which sdpa falls back to eager in some versions.
WAYS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "plain": _plain,
    "cached": _cached,
    "generated": _generated,
    "attended": _attended,
}


def _ids() -> torch.Tensor:
    return (torch.arange(BATCH * (PROMPT + STEPS)) * 37 % 90 + 5).view(BATCH, -1)


def _call(model: nn.Module, **arguments: Any) -> Any:
    """Call a model with what it knows: the oldest ones have no use_cache."""
    known = inspect.signature(model.forward).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        arguments = {name: value for name, value in arguments.items() if name in known}
    return model(**arguments)


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in a value, with its path: containers, and the caches of any version."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{path}/{key}".lstrip("/"))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _tensors(inner, f"{path}/{index}")
    elif "Cache" in type(value).__name__ or "Layer" in type(value).__name__:
        yield from _tensors(vars(value), path)
