"""What the laws on strategies share: the budgets that they try, and the choices that they compare."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.algebra.reduction import Reduction
from tokensieve.composers.selection import select
from tokensieve.evidence import Tokens
from tokensieve.strategy import Merger, Scorer, Strategy
from tokensieve.testing.checks import require
from tokensieve.testing.samples import (
    changed,
    parts,
)


def partial_budgets(tokens: Tokens) -> list[int]:
    """Return budgets with which some tokens are chosen and others are not."""
    n = tokens.universe.n
    return sorted({1, n // 2, n - 1})


def all_budgets(tokens: Tokens) -> range:
    """Return all budgets from none to one more than there are tokens."""
    return range(tokens.universe.n + 2)


def budget(tokens: Tokens, k: int) -> Tensor:
    """Return the budget `k` for every row, int64 `[rows]`."""
    return torch.full_like(tokens.universe.counts, k)


def chosen(strategy: Strategy, tokens: Tokens, k: int) -> Tensor:
    """Return the mask of the tokens that a strategy chooses, bool `[rows, n]`."""
    return select(strategy, tokens, budget(tokens, k)).mask


def merged(strategy: Merger, tokens: Tokens, k: int) -> Reduction:
    """Return a merger's reduction as a stage asks for it: with the declared evidence, and no more slots than tokens."""
    seen, before = tokens.only(strategy.needs), changed(tokens, Tensor.clone)
    reduction = strategy.assign(seen, torch.minimum(budget(tokens, k), tokens.universe.counts))
    require_unchanged(tokens, before)
    return reduction


def scores_of(strategy: Strategy, tokens: Tokens) -> Tensor | None:
    """Return the scores of a scorer, else none: laws allow a swap of tokens whose scores are equal up to rounding."""
    return strategy.score(tokens.only(strategy.needs)) if isinstance(strategy, Scorer) else None


def require_unchanged(tokens: Tokens, before: Tokens) -> None:
    """Raise `AssertionError` if the evidence of tokens is not what it was before."""
    for kind, value in tokens.evidence.items():
        old = dict(parts(before.evidence[kind]))
        for name, part in parts(value):
            same = torch.equal(part.nan_to_num(), old[name].nan_to_num())
            require(same, f"judging changed {kind} {name}".rstrip())
