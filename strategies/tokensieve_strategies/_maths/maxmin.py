"""Greedy max-min diversity: each pick is the token farthest from all earlier picks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]
"""Maps places `[rows, b]` to their distances to all tokens, `[rows, b, n]`."""


def max_min(distance: Distance, valid: Tensor, first: Tensor, depth: int) -> Tensor:
    """Return `depth` picks of every row, the lowest place on ties.

    The running minimum makes a step O(n), and every prefix of the picks is the answer for its size.
    The host never waits for the device.

    Args:
        distance: any real dtype; equal distances must be equal to the bit (see `round_for_ties`).
        valid: bool `[rows, n]`, which places hold a token.
        first: int64 `[rows]`, where each row begins; ignored where a row has no token.
        depth: how many to pick, at most n.

    Returns:
        int64 `[rows, depth]`, -1 once a row's tokens are used up.
    """
    each = torch.arange(valid.shape[0], device=valid.device)
    places = torch.full((valid.shape[0], depth), -1, device=valid.device)
    left = valid.clone()
    pick, nearest = first, None
    for turn in range(depth):
        places[:, turn] = torch.where(left.any(dim=1), pick, -1)
        left[each, pick] = False
        reach = distance(pick.unsqueeze(1)).squeeze(1).double()
        nearest = reach if nearest is None else torch.minimum(nearest, reach)
        pick = nearest.masked_fill(~left, -torch.inf).argmax(dim=1)
    return places


def most_isolated(distance: Distance, valid: Tensor) -> Tensor:
    """Return the token of every row whose nearest other token is farthest, int64 `[rows]`.

    Streamed in blocks of tokens. The lowest place wins ties.
    """
    rows, n = valid.shape
    own = torch.arange(n, device=valid.device)
    nearest = torch.full((rows, n), -torch.inf, dtype=torch.float64, device=valid.device)
    for start in range(0, n, block := max(1, 2**20 // max(1, n))):
        some = own[start : start + block]
        others = valid.unsqueeze(1) & (some.unsqueeze(1) != own)
        reach = distance(some.expand(rows, -1)).double().masked_fill(~others, torch.inf)
        nearest[:, start : start + block] = reach.amin(dim=2)
    return nearest.masked_fill(~valid, -torch.inf).argmax(dim=1)
