"""Choices of tokens, which the laws compare."""

from __future__ import annotations

import torch
from torch import Tensor

from tokensieve.algebra.chain import Chain
from tokensieve.composers.expression import Expression, Reading
from tokensieve.composers.selection import select
from tokensieve.evidence import Tokens
from tokensieve.testing.checks import require

TOLERANCE = 1e-5
"""The largest relative difference of two float64 scores whose tokens may be swapped."""


def same_choice(tokens: Tokens, before: Tensor, after: Tensor, what: str, scores: Tensor | None = None) -> None:
    """Two masks choose the same tokens; tokens of nearly equal scores may be swapped.

    Args:
        tokens: the groups.
        before: bool `[rows, n]`.
        after: bool `[rows, n]`.
        what: the change between the masks, for the message.
        scores: `[rows, n]`; a swap of tokens whose scores are nearly equal is then no violation.
    """
    for row, changed in enumerate(before ^ after):
        if scores is not None and before[row].sum() == after[row].sum():
            swapped = scores[row].double()[changed]
            if swapped.numel() and swapped.max() - swapped.min() <= TOLERANCE * swapped.abs().max():
                continue
        lost, won = (sorted(tokens.ids[row][changed & side[row]].tolist()) for side in (before, after))
        require(not changed.any(), f"{what} lost tokens {lost} and won {won} in row {row}")


def chosen(expression: Expression, tokens: Tokens, k: int, by: Expression | None = None) -> Tensor:
    """Return the mask of a cut to `k` tokens of every group, bool `[rows, n]`."""
    return select(expression, tokens, torch.full_like(tokens.universe.counts, k), by).mask


def full_chain(expression: Expression, tokens: Tokens) -> Chain:
    """Return the chain of an expression, read completely, with the tokens in id order."""
    canonical, _ = tokens.canonical()
    return Reading(canonical).of(expression, canonical.universe.n)
