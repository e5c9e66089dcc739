"""Pivots: a few tokens that all others are compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_by_l1_norm(x: Tensor, valid: Tensor, count: int) -> Tensor:
    """Return the places of the largest vectors by L1 norm, int64 `[rows, min(count, n)]`, invalid ones last.

    Norms are summed in float64 and compared in float32, so that rounding decides nothing. The lowest place wins ties.

    Args:
        x: `[rows, n, d]`.
        valid: bool `[rows, n]`.
        count: how many.
    """
    norm = x.double().abs().sum(dim=-1).float().masked_fill(~valid, -torch.inf)
    return norm.argsort(dim=1, descending=True, stable=True)[:, :count]
