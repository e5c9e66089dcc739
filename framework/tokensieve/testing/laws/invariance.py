"""Laws on what must not change a choice of tokens: memory order, padding, the batch, and reading deeper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokensieve.algebra.universe import Universe
from tokensieve.composers.expression import Expression, Reading
from tokensieve.evidence import PER_TOKEN, Tokens, Value, tensors_of
from tokensieve.testing.checks import require
from tokensieve.testing.laws.choices import chosen, same_choice


def order_free(
    expression: Expression, tokens: Tokens, k: int, permutation: Tensor, scores: Tensor | None = None
) -> None:
    """The order of the tokens in memory changes nothing, if ids and evidence are permuted with them.

    Args:
        expression: the expression or strategy.
        tokens: the groups.
        k: the budget.
        permutation: int64 `[rows, n]`, a permutation of the places of every row.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    moved = chosen(expression, tokens.take(permutation, torch.ones_like(tokens.valid)), k)
    back = torch.zeros_like(moved).scatter_(1, permutation, moved)
    same_choice(tokens, chosen(expression, tokens, k), back, "permuting memory", scores)


def padding_free(
    expression: Expression,
    tokens: Tokens,
    k: int,
    extra: int = 3,
    filler: int = 7,
    scores: Tensor | None = None,
) -> None:
    """Places without a token change nothing, whatever values are there.

    Args:
        expression: the expression or strategy.
        tokens: the groups.
        k: the budget.
        extra: how many places are added to every row.
        filler: the value of the evidence there.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    n = tokens.universe.n
    wide = chosen(expression, _padded(tokens, extra, filler), k)
    require(not wide[:, n:].any(), f"the cut to {k} took padding ({expression!r})")
    same_choice(tokens, chosen(expression, tokens, k), wide[:, :n], "padding", scores)


def batch_free(expression: Expression, tokens: Tokens, k: int, scores: Tensor | None = None) -> None:
    """A row alone, without its padding, has the same tokens chosen as in the batch."""
    together = chosen(expression, tokens, k)
    for row in range(tokens.universe.rows):
        places = tokens.valid[row].nonzero().T
        alone = tokens.take(places, torch.ones_like(places, dtype=torch.bool), torch.tensor([row]))
        same_choice(
            alone,
            together[row, places[0]].unsqueeze(0),
            chosen(expression, alone, k),
            f"taking row {row} out of the batch",
            None if scores is None else scores[row, places[0]].unsqueeze(0),
        )


def depth_free(expression: Expression, tokens: Tokens, k: int) -> None:
    """Reading the strategies deeper than the cut needs changes nothing."""
    canonical, _ = tokens.canonical()
    n = tokens.universe.n
    needed = chosen(expression, canonical, k)
    for depth in range(k + 1, n + 1):
        read = Reading(canonical).settled(expression, k, depth).cut(k)
        same_choice(canonical, needed, read, f"reading to depth {depth}")


def deterministic(expression: Expression, tokens: Tokens, k: int) -> None:
    """The same call twice chooses the same tokens."""
    same_choice(tokens, chosen(expression, tokens, k), chosen(expression, tokens, k), "asking again")


def _padded(tokens: Tokens, extra: int, filler: int) -> Tokens:
    def wider(x: Tensor, value: int) -> Tensor:
        return torch.cat([x, x.new_full((x.shape[0], extra, *x.shape[2:]), value)], dim=1)

    def padded(value: Value) -> Value:
        if isinstance(value, Tensor):
            return wider(value, filler)
        parts: dict[str, Any] = {n: wider(part, filler) for n, part in tensors_of(value).items() if n in PER_TOKEN}
        return replace(value, **parts)

    universe = Universe(wider(tokens.valid, 0), wider(tokens.ids, filler))
    return replace(tokens, universe=universe, evidence={k: padded(v) for k, v in tokens.evidence.items()})
