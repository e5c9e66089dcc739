"""Selecting: an expression is read as deep as its budget needs, and cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokensieve.algebra.budget import Keep, counts
from tokensieve.algebra.chain import Chain, noted
from tokensieve.composers.expression import Expression, Reading
from tokensieve.errors import AlgebraError
from tokensieve.evidence import Tokens


@dataclass(frozen=True, eq=False)
class Selection:
    """What a cut took.

    Attributes:
        mask: bool `[rows, n]`, in the memory order of the tokens given.
        depth: int64 `[rows]`, how many places of the expression were read to take them.
        shares: by strategy, float64 `[rows]`: the part of the selection that the strategy had
            among its own k best. Strategies that judged other tokens (right of `>>`, inside
            `per_group`) have none.
        notes: what the chains have to say about how they came to be, such as a fallback.
    """

    mask: Tensor
    depth: Tensor
    shares: dict[Expression, Tensor]
    notes: tuple[str, ...] = ()


def select(
    expression: Expression,
    tokens: Tokens,
    keep: Keep | Tensor,
    by: Expression | None = None,
    source: Callable[[Expression, Reading, int], Chain] | None = None,
) -> Selection:
    """Read an expression as deep as its budget needs, and cut it.

    Args:
        expression: what to read.
        tokens: the groups, in any memory order.
        keep: the budget, or a size a row, int64 `[rows]`; `auto` is a fixed set's own size.
        by: whose order breaks ties of level, instead of the default of `Chain.cut`.
        source: reads strategies instead of asking them; for simulations.

    Raises:
        AlgebraError: if `keep` is auto and the expression is not a fixed set.
    """
    canonical, order = tokens.canonical()
    reading = Reading(canonical, source)
    universe = canonical.universe
    if isinstance(keep, Tensor):
        k = torch.minimum(keep, universe.counts)
    elif keep.auto:
        chain = reading.of(expression, universe.n)
        inside = chain.level == -1
        if not bool((inside | (chain.level == universe.counts.unsqueeze(1)) | ~universe.valid).all()):
            raise AlgebraError("keep: auto is a fixed set's own size; this expression ranks tokens: give a budget")
        k = (inside & universe.valid).sum(dim=1)
    else:
        k = counts(keep, universe.counts)
    chain = reading.settled(expression, k)
    tie = None if by is None else reading.of(by, universe.n)
    mask = chain.cut(k, tie)
    deepest = torch.zeros_like(k)
    if universe.n:
        deepest = torch.where(mask, chain.level + 1, 0).amax(dim=1).clamp(max=universe.n)
    shares = {}
    for strategy in expression.strategies():
        own = reading.known(strategy, k)
        if own is not None:
            agreed = (mask & own.members(k)).sum(dim=1)
            shares[strategy] = agreed.double() / k.clamp(min=1)
    # Undo the canonical order.
    notes = noted([chain] if tie is None else [chain, tie])
    return Selection(torch.zeros_like(mask).scatter_(1, order, mask), deepest, shares, notes)
