"""Computes the recall window: the narrowest range that holds a given share of the values of each head.

Only values that can be a bound are sorted. One pass in memory order finds the extremes of each token; the `count` most
extreme values all lie in the `count` tokens with the most extreme values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fa3cli.numerics.row_blocks import token_blocks

__all__ = ["recall_window"]

_FEW = 16  # below this ratio of values to `count`, topk is faster without another level of groups
_GROUP = 8  # values per group in such a level
_MAGNITUDE = 0x7FFF  # the bits of a 16-bit float without its sign


def recall_window(states: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the bounds of each head's recall window: `[B, H, S, D] -> [H], [H]`, float32, on the CPU.

    For n values per head, it is the narrowest window (by float64 width) of `int(ratio * n)` consecutive sorted values,
    on a tie the lowest. If a head has a value that is not finite, one of the bounds is not finite either: an infinity
    is never dropped as an outlier.
    """
    heads, count = states.shape[1], states.numel() // states.shape[1]
    left_out = count - max(int(ratio * count), 1)
    lowest, highest = _token_peaks(states)
    # The i-th window starts at the i-th smallest value; only left_out + 1 values at each end can be bounds.
    # Computed on the CPU, since some devices lack float64.
    starts = _extremes(states, lowest, left_out + 1, largest=False).cpu()
    ends = _extremes(states, highest, left_out + 1, largest=True).cpu().flip(1)
    widths = ends.double() - starts.double()
    # argmin prefers NaN to any number, so it chooses a window that has NaN or an infinity as a bound.
    narrowest = widths.masked_fill(widths.isinf(), math.nan).argmin(dim=1, keepdim=True)
    return starts.gather(1, narrowest).view(heads), ends.gather(1, narrowest).view(heads)


def _extremes(states: Tensor, peaks: Tensor, count: int, *, largest: bool) -> Tensor:
    """Return each head's `count` extreme values, the most extreme first: `[B, H, S, D] -> [H, count]`, float32."""
    if count == 1:
        keys = peaks.amax(dim=1, keepdim=True) if largest else peaks.amin(dim=1, keepdim=True)
    else:
        top = _topk(peaks, min(count, peaks.shape[1]), largest=largest)
        candidates = _keys(_values_of(states, top))
        keys = candidates.gather(1, _topk(candidates, count, largest=largest))
    return _values(keys, states.dtype).float()


def _values_of(states: Tensor, tokens: Tensor) -> Tensor:
    """Return the values of selected tokens per head: `[B, H, S, D], [H, count] -> [H, count * D]`."""
    length = states.shape[2]
    heads = [  # for one sample by index_select, which is four times as fast as indexing
        head[0].index_select(0, top) if len(head) == 1 else head[top // length, top % length]
        for head, top in zip(states.unbind(1), tokens)
    ]
    return torch.stack(heads).flatten(1)


def _topk(keys: Tensor, count: int, *, largest: bool) -> Tensor:
    """Return the positions of the `count` extremes of each row, the most extreme first: `[H, N] -> [H, count]`.

    With many values, the extremes lie in the `count` groups with the most extreme peaks, or outside the groups.
    """
    if keys.shape[1] <= _FEW * count:
        return keys.topk(count, dim=1, largest=largest).indices
    groups = keys.shape[1] // _GROUP
    members = keys[:, : groups * _GROUP].view(len(keys), _GROUP, groups)
    peaks = members.amax(dim=1) if largest else members.amin(dim=1)
    best = _topk(peaks, count, largest=largest)
    ungrouped = torch.arange(groups * _GROUP, keys.shape[1], device=keys.device).expand(len(keys), -1)
    near = torch.cat([*(best + groups * member for member in range(_GROUP)), ungrouped], dim=1)
    return near.gather(1, keys.gather(1, near).topk(count, dim=1, largest=largest).indices)


def _token_peaks(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest key of each token and head: `[B, H, S, D] -> [H, B*S], [H, B*S]`."""
    blocks = list(token_blocks(states))  # [H, tokens, D] each
    # One buffer for all blocks: allocating new memory per block takes longer than filling it.
    scratch = torch.empty(
        blocks[0].numel() if _are_ordered_by_bits(states) else 0, dtype=torch.int16, device=states.device
    )
    lowest, highest = zip(*(_block_peaks(block, scratch) for block in blocks))
    return torch.cat(lowest, dim=1), torch.cat(highest, dim=1)


def _block_peaks(block: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest key of each row: `[H, tokens, D] -> [H, tokens], [H, tokens]`."""
    # The layout of projections, with tokens outermost: a reduction in memory order is 5 times faster.
    if block.stride(0) < block.stride(1):
        lowest, highest = _block_peaks(block.transpose(0, 1), scratch)
        return lowest.t(), highest.t()
    if not _are_ordered_by_bits(block):
        return block.amin(dim=2), block.amax(dim=2)
    # As integers, the bits of floats have the order of the values, except that negative values are in reverse order.
    bits = block.view(torch.int16)
    mirrored = torch.bitwise_xor(bits, _MAGNITUDE, out=scratch[: bits.numel()].view(bits.shape))
    lowest, highest = mirrored.amin(dim=2), bits.amax(dim=2)
    if lowest.amax() >= 0 or highest.amin() < 0:  # some row has values of one sign only
        least = bits.amin(dim=2)
        lowest, highest = (torch.where(least < 0, lowest, least), torch.where(highest < 0, least ^ _MAGNITUDE, highest))
    return lowest, highest


def _are_ordered_by_bits(states: Tensor) -> bool:
    """Tell whether the keys are the values' bits as integers: a CPU reduces 16-bit floats 8 times slower than integers."""
    return states.dtype in (torch.float16, torch.bfloat16) and states.device.type == "cpu"


def _keys(states: Tensor) -> Tensor:
    """Return keys in the order of the values: the values, or integers that `_values` converts back."""
    return _mirrored(states.view(torch.int16)) if _are_ordered_by_bits(states) else states


def _values(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of keys from `_keys` or `_token_peaks`, for states of this dtype."""
    return keys if keys.dtype == dtype else _mirrored(keys).view(dtype)


def _mirrored(bits: Tensor) -> Tensor:
    """Return int16 bits with the order of negative values reversed; applied twice, it returns the original bits."""
    mirrored = bits >> 15  # all ones if negative; several times faster than torch.where
    mirrored &= _MAGNITUDE
    mirrored ^= bits
    return mirrored
