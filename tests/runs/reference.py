"""Computes what an export must hold, slowly, from ordinary forwards of the unpatched model."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

EPS = 2.0**-23
RATIO = {"q": 0.9999, "k": 0.9999, "v": 1.0}


@dataclass
class Seen:
    """By module name and sample: a linear's smallest and largest input, an attention's states `[B, H, S, D]`."""

    inputs: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    states: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)


def load(folder: Path) -> nn.Module:
    """The native model of a folder, patched or not."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto").eval()


@torch.no_grad()
def observe(model: nn.Module, samples: list[list[int]]) -> Seen:
    """Run a Llama or Qwen2 and record states after rope, before key and value heads are repeated."""
    seen, module = Seen(), sys.modules[type(model).__module__]
    attentions = [name for name, _ in model.named_modules() if name.endswith(".self_attn")]
    seen.states = {name: {role: [] for role in "qkv"} for name in attentions}
    handles = [
        linear.register_forward_pre_hook(
            lambda _, args, name=name: seen.inputs[name].append((args[0].min().item(), args[0].max().item()))
        )
        for name, linear in model.named_modules()
        if isinstance(linear, nn.Linear)
    ]
    heads = model.config.num_key_value_heads
    for name in attentions:
        values = model.get_submodule(name).v_proj
        handles.append(
            values.register_forward_hook(
                lambda _, __, output, name=name: seen.states[name]["v"].append(
                    output.unflatten(-1, (heads, -1)).transpose(1, 2)
                )
            )
        )
    native = module.apply_rotary_pos_emb
    turn = iter(attentions * len(samples))

    def rope(*args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        query, key = native(*args, **kwargs)
        name = next(turn)
        seen.states[name]["q"].append(query.clone())
        seen.states[name]["k"].append(key.clone())
        return query, key

    module.apply_rotary_pos_emb = rope
    try:
        for ids in samples:
            model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        module.apply_rotary_pos_emb = native
        for handle in handles:
            handle.remove()
    return seen


def head_scale(states: list[Tensor], role: str) -> Tensor:
    """`[H, 1]`: each sample's narrowest window of sorted values, united over the samples, by 127."""
    bounds = []
    for sample in states:
        for head in range(sample.shape[1]):
            values = sorted(sample[:, head].flatten().double().tolist())
            size = max(int(RATIO[role] * len(values)), 1)
            widths = [values[at + size - 1] - values[at] for at in range(len(values) - size + 1)]
            at = widths.index(min(widths))
            bounds.append(max(-values[at], values[at + size - 1], -values[at + size - 1], values[at]))
    largest = torch.tensor(bounds).view(len(states), -1).amax(0)
    return (largest / 127).clamp_min(EPS).unsqueeze(1)


def linear_tensors(linear: nn.Linear, inputs: list[tuple[float, float]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The W8A8 tensors of a linear, everything after the mean in float32."""
    low, high = (torch.tensor([ends], dtype=torch.float64).mean(1).float() for ends in zip(*inputs))
    low, high = low.clamp(max=0), high.clamp(min=0)
    input_scale = ((high - low) / 255).clamp(min=EPS).to(dtype)
    offset = round((-low / input_scale.float()).item()) - 128
    weight_scale = (linear.weight.float().abs().amax(1, keepdim=True) / 127).clamp_min(EPS).to(dtype)
    weight = (linear.weight.float() / weight_scale.float()).round().clamp(-127, 127)
    deq_scale = input_scale.float() * weight_scale.float()[:, 0]
    bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias
    return {
        "weight": weight.to(torch.int8),
        "weight_scale": weight_scale,
        "weight_offset": torch.zeros_like(weight_scale),
        "input_scale": input_scale,
        "input_offset": torch.tensor([offset], dtype=dtype),
        "quant_bias": ((bias.double() / deq_scale.double()).round() - weight.double().sum(1) * offset).int(),
        "deq_scale": deq_scale if dtype == torch.bfloat16 else deq_scale.view(torch.int32).long(),
    }


def fallback_score(states: dict[str, list[Tensor]]) -> float:
    """fa_amp's score of an attention module: the first sample's 100-bin histograms, searched from the top."""
    scores = []
    for role in "qkv":
        values = states[role][0].abs().float().flatten()
        high = values.max().item()
        counts = torch.histc(values, 100, values.min().item(), high)
        edges = torch.linspace(values.min().item(), high, 101)
        dense = (
            edges[top].item() / high
            for top in range(100, 2, -1)
            if (counts[top - 2] + counts[top - 1]).item() / values.numel() > 0.002
        )
        scores.append(next(dense, 1.0))
    return min(scores)
