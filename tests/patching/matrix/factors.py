"""Powers of two that differ by role and head: products with them are exact, so bits can be compared.

Identity can't tell a state that is quantized twice, by half, or after its heads were repeated; nor can rounding.
What powers of two can't tell (they commute with a rotation, say) a fingerprint of the states can.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["factors", "fingerprint", "multiply", "own_heads"]


def factors(role: str, heads: torch.Tensor) -> torch.Tensor:
    """The power of two of each head of q, k or v: indices [H] -> [H]."""
    return 2.0 ** {"q": heads % 3, "k": 1 + heads % 2, "v": -(1 + heads % 3)}[role]


def own_heads(states: torch.Tensor) -> torch.Tensor:
    """Which head each head of `states [B, H, S, D]` was before it was repeated, in whatever order: [H].

    Random heads are equal only where one was repeated, so the model's config need not be understood.
    """
    heads = states.transpose(0, 1).flatten(1)
    first = (heads[:, None] == heads[None]).all(-1).int().argmax(dim=1)
    return torch.unique(first, return_inverse=True)[1]


def multiply(heads: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """`heads [B, H, S, D]` times `[H, 1, 1]`, in the same layout: another one may round products differently.

    Repeated heads can be one head in memory, read several times; they stay that.
    """
    if heads.stride(1) == 0:
        return (heads[:, :1] * factors[:1]).expand(heads.shape)
    return heads * factors


def fingerprint(role: str, heads: torch.Tensor) -> str:
    """A short name for the bits of a state."""
    return f"{role} {hashlib.sha256(heads.contiguous().numpy().tobytes()).hexdigest()[:12]}"
