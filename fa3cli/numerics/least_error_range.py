"""Finds the range of a histogram with the least 8-bit error, clipping plus rounding, by an exact search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fa3cli.numerics.affine import INT8_MAX, INT8_MIN

__all__ = ["least_error_range"]


def least_error_range(counts: Tensor, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """Return how far below and above zero the best range reaches, float64 scalars in units of a bin.

    `counts` are int64 `[2, bins]`, of negative and positive values by magnitude; `lowest` and `highest` are their largest
    magnitudes. The result is the best of all pairs of bin edges and these two magnitudes.
    """
    below, above = _Side.of(counts[0], lowest), _Side.of(counts[1], highest)
    for stride in (32, 4):
        reached = _errors(below[::stride], above[::stride]).min()
        below, above = _pruned(below, above, reached)
    lower, upper = divmod(int(_errors(below, above).argmin()), len(above.bounds))
    return below.bounds[lower], above.bounds[upper]


@dataclass(frozen=True, eq=False)
class _Side:
    """Candidate bounds on one side of zero, the widest first; float64 `[n]`, in units of a bin."""

    bounds: Tensor
    squares: Tensor  # sum of the squared distances by which the bound clips values
    kept: Tensor  # number of values that the bound does not clip
    near_zero: Tensor  # float64 [3, bins + 1], of `_near_zero`

    @classmethod
    def of(cls, counts: Tensor, limit: float) -> _Side:
        """Return the bin edges up to `limit`, the outermost value, which replaces the outermost edge.

        `counts` are int64 `[bins]`; there are n = ceil(limit) + 1 candidates.
        """
        edges, bins = torch.arange(math.ceil(limit), -1, -1), torch.arange(len(counts))
        moments = torch.stack([counts, counts * bins, counts * bins**2]).flip(1).cumsum(1).flip(1)
        clipped, first, second = torch.cat([moments, moments.new_zeros(3, 1)], dim=1)[:, edges]
        # Values spread evenly over i..i+1 have the mean squared distance (i - e)^2 + (i - e) + 1/3 from an edge e.
        squares = second + (1 - 2 * edges) * first + edges * (edges - 1) * clipped + clipped.double() / 3
        bounds, kept = edges.double(), (counts.sum() - clipped).double()
        bounds[0], squares[0], kept[0] = limit, 0, counts.sum()
        return cls(bounds, squares, kept, _near_zero(counts))

    def __getitem__(self, chosen: slice | Tensor) -> _Side:
        return _Side(self.bounds[chosen], self.squares[chosen], self.kept[chosen], self.near_zero)


def _near_zero(counts: Tensor) -> Tensor:
    """Return n, a, b per bin: for t in that bin, 0..t holds n t + a values, and their squares sum to n t^3 / 3 + b.

    int64 `[bins]` -> float64 `[3, bins + 1]`.
    """
    counts = torch.cat([counts, counts.new_zeros(1)]).double()
    begin = torch.arange(len(counts), dtype=torch.double)
    squares = counts * (begin * (begin + 1) + 1 / 3)
    values_before, squares_before = counts.cumsum(0) - counts, squares.cumsum(0) - squares
    return torch.stack([counts, values_before - counts * begin, squares_before - counts * begin**3 / 3])


def _errors(below: _Side, above: _Side) -> Tensor:
    """Return the expected squared error of each pair of bounds, summed over the values: float64 `[n, m]`.

    The error of a clipped value is its distance to the bound; the error of a value within half a scale of zero is the value
    itself; the others have the mean squared error scale^2 / 12.
    """
    scale = (below.bounds.unsqueeze(1) + above.bounds) / (INT8_MAX - INT8_MIN)
    errors = torch.zeros_like(scale)
    for side, dim in ((below, 1), (above, 0)):
        to_zero = torch.minimum(scale / 2, side.bounds.unsqueeze(dim))
        n, a, b = side.near_zero[:, to_zero.long()]
        rounded = side.kept.unsqueeze(dim) - (n * to_zero + a)
        errors += side.squares.unsqueeze(dim) + rounded * scale**2 / 12 + (n * to_zero**3 / 3 + b)
    return errors


def _pruned(below: _Side, above: _Side, reached: Tensor) -> tuple[_Side, _Side]:
    """Drop bounds whose error exceeds `reached`, an error (float64 scalar) that some pair reaches, in every pair.

    Lower bound of a candidate's error: the error of its pair with the narrowest bound of the other side, without that
    bound's clipping. With any wider bound, more values are kept, and all are rounded at least as coarsely.
    """
    reached = reached * (1 + 1e-9)
    above = above[_errors(below[-1:], above)[0] - below.squares[-1] <= reached]
    return below[_errors(below, above[-1:])[:, 0] - above.squares[-1] <= reached], above
