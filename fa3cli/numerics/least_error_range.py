"""The range of a histogram whose 8-bit quantization errs least: clipping against rounding, searched exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fa3cli.numerics.affine import INT8_MAX, INT8_MIN

__all__ = ["least_error_range"]


def least_error_range(counts: Tensor, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """Return how far below and above zero the best range reaches, float64 scalars in units of a bin.

    `counts` are int64 `[2, bins]`, of negative and of positive values by magnitude; `lowest` and `highest` the largest
    magnitudes among them. None is better of all pairs of bin edges and these two.
    """
    below, above = _Side.of(counts[0], lowest), _Side.of(counts[1], highest)
    for stride in (32, 4):
        reached = _errors(below[::stride], above[::stride]).min()
        below, above = _without_hopeless(below, above, reached)
    lower, upper = divmod(_errors(below, above).argmin().item(), len(above.bounds))
    return below.bounds[lower], above.bounds[upper]


@dataclass(frozen=True, eq=False)
class _Side:
    """Candidates for the bound on one side of zero, the widest first; float64 `[n]`, in units of a bin."""

    bounds: Tensor
    squares: Tensor  # distances by which the bound clips values, squared and summed
    kept: Tensor  # number of values it does not clip
    near_zero: Tensor  # float64 [3, bins + 1], of `_near_zero`

    @classmethod
    def of(cls, counts: Tensor, limit: float) -> _Side:
        """Return the bin edges up to `limit`, the outermost value, which takes the place of the last."""
        edges, bins = torch.arange(math.ceil(limit), -1, -1), torch.arange(len(counts))
        moments = torch.stack([counts, counts * bins, counts * bins**2]).flip(1).cumsum(1).flip(1)
        clipped, first, second = torch.cat([moments, moments.new_zeros(3, 1)], dim=1)[:, edges]
        # Values spread evenly over i..i+1 are off an edge e by (i - e)^2 + (i - e) + 1/3 in the mean square.
        squares = second + (1 - 2 * edges) * first + edges * (edges - 1) * clipped + clipped.double() / 3
        bounds, kept = edges.double(), (counts.sum() - clipped).double()
        bounds[0], squares[0], kept[0] = limit, 0, counts.sum()
        return cls(bounds, squares, kept, _near_zero(counts))

    def __getitem__(self, chosen: slice | Tensor) -> _Side:
        return _Side(self.bounds[chosen], self.squares[chosen], self.kept[chosen], self.near_zero)


def _near_zero(counts: Tensor) -> Tensor:
    """Return n, a, b of each bin: in 0..t, t in that bin, lie n t + a values, the squares n t^3 / 3 + b."""
    counts = torch.cat([counts, counts.new_zeros(1)]).double()
    begin = torch.arange(len(counts), dtype=torch.double)
    squares = counts * (begin * (begin + 1) + 1 / 3)
    values_before, squares_before = counts.cumsum(0) - counts, squares.cumsum(0) - squares
    return torch.stack([counts, values_before - counts * begin, squares_before - counts * begin**3 / 3])


def _errors(below: _Side, above: _Side) -> Tensor:
    """Return the expected squared error of each pair of bounds, summed over the values: `[n, m]`.

    A clipped value errs by its distance to the bound, one within half a scale of zero by itself, and the
    others by scale^2 / 12 in the mean square.
    """
    scale = (below.bounds.unsqueeze(1) + above.bounds) / (INT8_MAX - INT8_MIN)
    errors = torch.zeros_like(scale)
    for side, dim in ((below, 1), (above, 0)):
        to_zero = torch.minimum(scale / 2, side.bounds.unsqueeze(dim))
        n, a, b = side.near_zero[:, to_zero.long()]
        rounded = side.kept.unsqueeze(dim) - (n * to_zero + a)
        errors += side.squares.unsqueeze(dim) + rounded * scale**2 / 12 + (n * to_zero**3 / 3 + b)
    return errors


def _without_hopeless(below: _Side, above: _Side, reached: Tensor) -> tuple[_Side, _Side]:
    """Leave out bounds whose every pair errs more than `reached`, which some pair does not.

    Beside any other bound than the narrowest, more values are kept and all of them are rounded as coarsely
    or more so.
    """
    reached = reached * (1 + 1e-9)
    above = above[_errors(below[-1:], above)[0] - below.squares[-1] <= reached]
    return below[_errors(below, above[-1:])[:, 0] - above.squares[-1] <= reached], above
