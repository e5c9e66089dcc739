"""Greedy picks that subtract what each pick explains of the others, but never from each other.

It is the loop that the released code of Script runs in place of greedy MAP: kept to be compared with, and nothing to
choose tokens by. See `dpp.py` for the one that the formula asks for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import normalize

_PLACES = 2.0**40
"""Gains, of which the largest is 1, are compared after rounding to multiples of one over this."""


def greedy_by_subtraction(features: Tensor, quality: Tensor, valid: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return `depth` tokens of every row, and how many of them were picked before all gains were used up.

    With the kernel L = diag(q) S diag(q) and gains d_i = L_ii, each step takes the token j with the largest gain and
    subtracts L_ij² / d_j from all d_i. What j shares with earlier picks is subtracted again and again, so gains soon
    turn negative; from there on the gains stay as they are, and the rest follows by them. The lowest place wins ties.

    Args:
        features: `[rows, n, d]`.
        quality: `[rows, n]`, not negative.
        valid: bool `[rows, n]`, which places hold a token.
        depth: how many to pick, at most n.

    Returns:
        int64 `[rows, depth]`, -1 once a row's tokens are used up; and int64 `[rows]`.
    """
    rows, n = valid.shape
    each = torch.arange(rows, device=valid.device)
    picks = torch.full((rows, depth), -1, device=valid.device)
    updates = torch.zeros(rows, dtype=torch.int64, device=valid.device)
    if not n:
        return picks, updates
    x = normalize(features.detach().masked_fill(~valid.unsqueeze(-1), 0))
    q = quality.double().masked_fill(~valid, 0)
    gain = q.square() * (x != 0).any(dim=-1)
    # A common factor changes no pick.
    scale = gain.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    q, gain = q / scale, gain / scale.square()
    left = valid.clone()
    for turn in range(depth):
        rounded = (gain * _PLACES).round()
        pick = rounded.masked_fill(~left, -torch.inf).argmax(dim=1)
        picks[:, turn] = torch.where(left.any(dim=1), pick, -1)
        most = gain[each, pick]
        going = left.any(dim=1) & (rounded[each, pick] > 0)
        shared = q * q[each, pick].unsqueeze(1) * (x @ x[each, pick].unsqueeze(-1)).squeeze(-1)
        lost = shared.square() / torch.where(going, most, 1.0).unsqueeze(1)
        gain = torch.where(going.unsqueeze(1), gain - lost, gain)
        updates += going
        left[each, pick] = False
    return picks, updates
