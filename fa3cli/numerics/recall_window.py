"""The recall window: the narrowest range that still holds a given share of the values of each head."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["recall_window"]


def recall_window(states: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the bounds of each head's recall window: `[B, H, S, D] -> [H], [H]`, float32, on the CPU.

    Of all windows of `int(ratio * n)` consecutive values in sorted order, n values a head, it is the
    narrowest by float64 width, the lowest one on a tie. Of a head with a value that is not finite, one of
    the bounds is not: an infinity is never left out as an outlier.
    """
    heads, count = states.shape[1], states.numel() // states.shape[1]
    left_out = count - max(int(ratio * count), 1)
    # The i-th window starts at the i-th smallest value; only left_out + 1 values at each end can be bounds.
    starts = _extremes(states, left_out + 1, largest=False).cpu()  # where there is float64 for certain
    ends = _extremes(states, left_out + 1, largest=True).cpu().flip(1)
    widths = ends.double() - starts.double()
    # argmin takes a NaN before any number, and so the window a NaN or an infinity is a bound of.
    narrowest = widths.masked_fill(widths.isinf(), math.nan).argmin(dim=1, keepdim=True)
    return starts.gather(1, narrowest).view(heads), ends.gather(1, narrowest).view(heads)


def _extremes(states: Tensor, count: int, *, largest: bool) -> Tensor:
    """Return each head's `count` extreme values, the most extreme first: `[B, H, S, D] -> [H, count]`, float32."""
    peaks = _token_peaks(states, largest=largest)
    if count == 1:
        return (peaks.amax(dim=1, keepdim=True) if largest else peaks.amin(dim=1, keepdim=True)).float()
    rows = states.transpose(0, 1).flatten(1, 2)  # [H, B*S, D], a row is one token
    if count < peaks.shape[1]:
        # The `count` extreme values all lie in the `count` rows of the most extreme peaks.
        top = peaks.topk(count, dim=1, largest=largest).indices
        rows = rows.gather(1, top.unsqueeze(2).expand(-1, -1, rows.shape[2]))
    return rows.flatten(1).float().topk(count, dim=1, largest=largest).values


def _token_peaks(states: Tensor, *, largest: bool) -> Tensor:
    """Return the largest (or smallest) value of each token and head: `[B, H, S, D] -> [H, B*S]`."""
    by_token = states.transpose(1, 2)
    if by_token.is_contiguous():  # as projections lay them out; reducing in memory order is 5 times faster
        peaks = (by_token.amax(dim=3) if largest else by_token.amin(dim=3)).transpose(1, 2)
    else:
        peaks = states.amax(dim=3) if largest else states.amin(dim=3)
    return peaks.transpose(0, 1).flatten(1)
