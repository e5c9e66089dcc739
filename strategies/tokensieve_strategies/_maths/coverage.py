"""Greedy facility location: columns that together cover all rows best."""

from __future__ import annotations

import torch
from torch import Tensor

_SLACK = {torch.float64: 1e-9, torch.float32: 2.0**-18}
"""Gains with a smaller relative difference count as equal: terms are not negative, so rounding is relative, too."""
_BLOCK = 2**20
"""The number of bytes of `cover` that are processed at once, so that they stay in a processor's cache."""
_AT_ONCE = 8
"""How many columns a lazy step computes first; twice as many the next time."""


def greedy_cover(cover: Tensor, depth: int) -> Tensor:
    """Return `depth` columns, each with the largest gain in the sum over rows of the row's best pick.

    F(S) = sum over r of max over j in S of cover_rj, and 0 for no pick. Every prefix of the picks is
    the answer for its size. The lowest column wins ties, also where no gain is left. The host never
    waits for the device, and a step takes no memory that was not there before.

    Args:
        cover: float64 or float32 `[rows, n]`, not negative.
        depth: how many to pick, at most n.

    Returns:
        int64 `[depth]`.
    """
    cover = cover.detach()
    rows, n = cover.shape
    picks = torch.zeros(depth, 1, dtype=torch.int64, device=cover.device)
    best, barred = cover.new_zeros(rows, 1), cover.new_zeros(1, n)
    height = max(1, _BLOCK // max(1, n * cover.element_size())) if cover.device.type == "cpu" else max(1, rows)
    # Views, which see `best` as it grows.
    blocks = [*zip(cover.split(height), best.split(height), strict=True)]
    rest = cover.new_empty(min(height, rows), n)
    rests = [rest[: len(part)] for part, _ in blocks]
    tied = torch.empty(1, n, dtype=torch.uint8, device=cover.device)
    column = torch.empty_like(best)
    near = 1 - _SLACK[cover.dtype]
    for pick in picks.unbind():
        gain = barred.clone()
        for (part, so_far), room in zip(blocks, rests, strict=True):
            torch.sub(part, so_far, out=room)
            gain += room.relu_().sum(dim=0, keepdim=True)
        bound = gain.amax(dim=1, keepdim=True).mul_(near)
        # The first of those that count as equal.
        torch.argmax(torch.ge(gain, bound, out=tied), 1, out=pick)
        barred.index_fill_(1, pick, -torch.inf)
        torch.index_select(cover, 1, pick, out=column)
        torch.maximum(best, column, out=best)
    return picks.flatten()


def lazy_cover(cover: Tensor, depth: int) -> Tensor:
    """Return what `greedy_cover` returns for a symmetric matrix, looking at few columns a step.

    A column's gain never grows, so what it was once bounds it from above (lazy greedy, Minoux 1978): only columns
    whose bound reaches the best gain of this step are computed anew. The host waits for the device at every step.

    Args:
        cover: float64 or float32 `[n, n]`, symmetric, not negative.
        depth: how many to pick, at most n.

    Returns:
        int64 `[depth]`.
    """
    cover = cover.detach()
    near = 1 - _SLACK[cover.dtype]
    picks = torch.zeros(depth, dtype=torch.int64, device=cover.device)
    best = cover.new_zeros(len(cover))
    bound = cover.sum(dim=0)
    for turn in range(depth):
        gain = torch.full_like(bound, -torch.inf)
        width = _AT_ONCE
        while True:
            # Those already computed in this step are not asked again.
            open_bound = bound.masked_fill(gain > -torch.inf, -torch.inf)
            some = open_bound.topk(min(width, len(bound))).indices
            # Whatever was picked in an earlier step has no bound.
            some = some[(open_bound[some] >= gain.max() * near) & (open_bound[some] > -torch.inf)]
            if not len(some):
                break
            gain[some] = bound[some] = (cover[some] - best).relu_().sum(dim=1)
            width *= 2
        picks[turn] = pick = (gain >= gain.max() * near).to(torch.uint8).argmax()
        best = torch.maximum(best, cover[pick])
        bound[pick] = -torch.inf
    return picks
