"""SVD-Prune: tokens that weigh most in the main directions of all tokens, by leverage scores."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Scorer, Tokens
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties

_ROUNDING = 1e-10
"""Squared singular values with a smaller relative difference are one."""


class SVDPrune(Scorer):
    """Keeps the tokens with the largest leverage in the directions that hold most of the variance.

    With the singular value decomposition X = U S V^T of a group's n vectors, and r the least number of
    directions with

        sum over j <= r of s_j² >= variance times the sum of all s_j²,

    score_i = 1/r sum over j <= r of U_ij². Directions with the same s_j as the r-th are counted, too, so that
    the score does not depend on which of them a decomposition names first. The scores add up to 1.

    Paper: Apedo et al., SVD-Prune, 2026; read in its abstract and in summaries, which have this formula. The
    threshold of the paper was not seen, so 0.9 is ours; no code was published when this was written.

    Attributes:
        variance: how much of the sum of squares the directions hold together.
    """

    name = "svdprune"
    paper = "https://arxiv.org/abs/2604.11530"
    complexity = ("O(n d m + m³), m = min(n, d)", "O(n d)")
    examples = ({}, {"variance": 0.5}, {"variance": 1.0})

    variance: float = Field(default=0.9, gt=0, le=1)

    def score(self, tokens: Tokens) -> Tensor:
        """Return the leverage scores of each group, computed from that group alone."""
        largest = require_finite(tokens.features, tokens.valid, "svdprune: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.sizes):
            if n:
                # A common factor changes no score, and without it squares of huge vectors stay numbers.
                factor = largest[row, :n].double().max().clamp(min=1e-300)
                scores[row, :n] = self._leverage(tokens.features[row, :n].detach().double() / factor)
        return scores

    def _leverage(self, x: Tensor) -> Tensor:
        wide = x.shape[0] <= x.shape[1]
        square, directions = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
        square = square.flip(0).clamp(min=0)
        directions = directions.flip(1)
        total = square.cumsum(dim=0)
        enough = total >= total[-1] * self.variance * (1 - _ROUNDING)
        last = square[enough.to(torch.uint8).argmax()]
        # What rounding leaves of a direction that is not there is none.
        main = (square >= last * (1 - _ROUNDING)) & (square > square[0] * 1e-12)
        own = directions if wide else (x @ directions) / square.sqrt().where(main, 1.0)
        return round_for_ties((own.square() * main).sum(dim=1) / main.sum().clamp(min=1))
