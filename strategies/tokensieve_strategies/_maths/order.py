"""Orders of tokens by falling values, the lowest place first on ties; and means over heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tokensieve_strategies._maths.vectors import require_finite


def mean_over_heads(attention: Tensor, valid: Tensor, what: str) -> Tensor:
    """Return the mean over heads, float32 `[rows, n]`; 0 at invalid places.

    Summed in float64 and rounded to float32, so that means that differ by rounding alone are ties.

    Args:
        attention: `[rows, n, heads]`.
        valid: bool `[rows, n]`.
        what: the name of the attention, for the message.

    Raises:
        ScoreError: if a valid token's attention holds NaN or an infinity.
    """
    require_finite(attention, valid, what)
    return attention.double().mean(dim=-1).float().where(valid, 0.0)


def descending_order(x: Tensor) -> Tensor:
    """Return the places of `x` `[n]` by falling value, the lowest place first on ties, int64 `[n]`."""
    return x.argsort(descending=True, stable=True)


def split_evenly(n: int, number: int) -> list[slice]:
    """Return `number` runs of near-equal length that n places are cut into: place i is in run floor(i number / n)."""
    ends = [-(-run * n // number) for run in range(number + 1)] if number else []
    return [slice(start, end) for start, end in pairwise(ends)]


def stack_orders(orders: Sequence[Tensor], depth: int, like: Tensor) -> Tensor:
    """Return the first `depth` places of every row's order as picks, int64 `[rows, depth]`, -1 where there is none."""
    picks = like.new_full((len(orders), depth), -1, dtype=torch.int64)
    for row, order in enumerate(orders):
        picks[row, : len(order)] = order[:depth]
    return picks


def among_first(order: Tensor, group: Tensor, number: Tensor) -> Tensor:
    """Return which places are among the first of their group in an order, bool `[n]`.

    Args:
        order: int64 `[n]`, all places.
        group: int64 `[n]`, the group of each place, from 0.
        number: int64 `[groups]`, how many are the first of each group.
    """
    by_group = order[group[order].argsort(stable=True)]
    sizes = group.bincount(minlength=len(number))
    turn = torch.arange(len(order), device=order.device) - (sizes.cumsum(dim=0) - sizes)[group[by_group]]
    return torch.zeros_like(group, dtype=torch.bool).scatter(0, by_group, turn < number[group[by_group]])
