"""Cosines between two sets of vectors in tiles, without the whole matrix in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import in_float32, no_autocast, normalize, unit_float32

SIDE = 1024
"""The longest side of a tile: 8 MB in float64."""
_VALUES = 2**20
"""The largest number of values in the vectors of one side of a tile: 8 MB."""
EXACT = 2**20
"""The largest number of cosines that a quantile sorts; more are counted in bins."""
BINS = 2**20


def cosine_tiles(left: Tensor, right: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the cosines between `left` `[a, d]` and `right` `[b, d]`, tile by tile.

    Yields:
        Rows, columns, and `[rows, columns]`: in float32 where `in_float32` says so of both, else in float64.
    """
    side = min(SIDE, max(64, _VALUES // max(1, left.shape[1])))
    quick = in_float32(len(left) + len(right), left.shape[1], left.device)
    unit = unit_float32 if quick else normalize
    with no_autocast(left.device):
        for top in range(0, left.shape[0], side):
            rows = slice(top, min(top + side, left.shape[0]))
            across = unit(left[rows])
            for start in range(0, right.shape[0], side):
                columns = slice(start, min(start + side, right.shape[0]))
                yield rows, columns, across @ unit(right[columns]).T


def cosine_quantile(left: Tensor, right: Tensor, q: float) -> Tensor:
    """Return the q-quantile of all cosines between `left` and `right`, a float64 scalar.

    Up to `EXACT` cosines are sorted, and the quantile interpolates between the two nearest ones. More are counted in
    bins of width 2/2^20; the quantile is then the lower edge of the bin of the lower of the two, so the cosines at the
    quantile are never below it.
    """
    total = left.shape[0] * right.shape[0]
    if total == 0:
        return torch.zeros((), dtype=torch.float64, device=left.device)
    if total <= EXACT:
        return torch.cat([tile.flatten().double() for *_, tile in cosine_tiles(left, right)]).quantile(q)
    counted = torch.zeros(BINS, dtype=torch.int64, device=left.device)
    for *_, tile in cosine_tiles(left, right):
        place = ((tile + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
        counted += place.flatten().bincount(minlength=BINS)
    rank = torch.tensor(int(q * (total - 1)), device=left.device)
    return torch.searchsorted(counted.cumsum(0), rank, right=True).double() * (2 / BINS) - 1


def mean_cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return the mean cosine of each of `left` `[a, d]` to all of `right` `[b, d]`, float64 `[a]`; 0 without any.

    That is the product with the mean direction, so it takes O((a + b) d).
    """
    block = max(1, _VALUES // max(1, left.shape[1]))
    total = left.new_zeros(left.shape[1], dtype=torch.float64)
    for part in right.split(block) if len(right) else ():
        total += normalize(part).sum(dim=0)
    mean = total / max(1, len(right))
    return torch.cat([normalize(part) @ mean for part in left.split(block)] or [mean[:0]])


def paired_cosines(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of `x[left]` and `x[right]`, pair by pair, float64 `[p]`.

    Args:
        x: `[n, d]`.
        left: int64 `[p]`, places.
        right: int64 `[p]`, places.
    """
    block = max(1, _VALUES // max(1, x.shape[1]))
    found = [
        (normalize(x[left[start : start + block]]) * normalize(x[right[start : start + block]])).sum(dim=-1)
        for start in range(0, len(left), block)
    ]
    return torch.cat(found) if found else x.new_empty(0, dtype=torch.float64)
