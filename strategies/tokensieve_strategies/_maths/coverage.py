"""Greedy facility location: columns that together cover all rows best."""

from __future__ import annotations

import torch
from torch import Tensor

_SLACK = 1e-9
"""Gains with a smaller relative difference count as equal."""
_BLOCK = 2**17
"""The number of values of `cover` that are processed at once: 1 MB."""


def greedy_cover(cover: Tensor, depth: int) -> Tensor:
    """Return `depth` columns, each with the largest gain in the sum over rows of the row's best pick.

    F(S) = sum over r of max over j in S of cover_rj, and 0 for no pick. Every prefix of the picks is
    the answer for its size. The lowest column wins ties, also where no gain is left. The host never
    waits for the device, and what a step needs beside `cover` stays in a processor's cache.

    Args:
        cover: float64 `[rows, n]`, not negative.
        depth: how many to pick, at most n.

    Returns:
        int64 `[depth]`.
    """
    cover = cover.detach()
    picks = torch.zeros(depth, dtype=torch.int64, device=cover.device)
    best = cover.new_zeros(cover.shape[0], 1)
    left = torch.ones(cover.shape[1], dtype=torch.bool, device=cover.device)
    height = max(1, _BLOCK // max(1, cover.shape[1]))
    # Views, which see `best` as it grows.
    blocks = [*zip(cover.split(height), best.split(height), strict=True)]
    for turn in range(depth):
        gain = cover.new_zeros(cover.shape[1])
        for part, so_far in blocks:
            gain += (part - so_far).clamp_(min=0).sum(dim=0)
        gain = gain.masked_fill(~left, -1.0)
        tied = left & (gain >= gain.max() * (1 - _SLACK))
        # The first of those that count as equal.
        pick = tied.to(torch.uint8).argmax()
        picks[turn] = pick
        left = left & (torch.arange(len(left), device=left.device) != pick)
        torch.maximum(best, cover.index_select(1, pick.reshape(1)), out=best)
    return picks
