"""Effective rank: in how many directions the tokens of a picture spread, and how much each adds to that."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Appraiser, Tokens
from tokensieve_strategies._maths.vectors import require_finite


class EffectiveRank(Appraiser):
    """Keeps the tokens that add most to the effective rank, and says how large that of a picture is.

    With the singular value decomposition X = U S V^T of a group's n vectors and p_j = s_j / sum of all s,

        demand = exp(H)^power,    H = - sum over j of p_j log p_j,
        score_i = - sum over j of U_ij² p_j log p_j,

    so the scores of a group add up to H. exp(H) is between 1, where all tokens lie on one line, and
    min(n, d); it is 0 where all features are 0.

    Paper: Baek et al., AgilePruner, ICLR 2026, which measures pictures by this rank, as Roy and Vetterli
    defined it (2007); read in its abstract and in summaries. There it moves the threshold of a selection whose
    budget is the same for every picture. That it shares a budget, the score and the power are ours. No code was
    read.

    Attributes:
        power: of the effective rank; a larger one gives more to pictures that need more.
    """

    name = "erank"
    paper = "https://arxiv.org/abs/2603.01236"
    complexity = ("O(n d m + m³), m = min(n, d)", "O(n d)")
    examples = ({}, {"power": 4.0})

    power: float = Field(default=1.0, gt=0, le=64)

    def score(self, tokens: Tokens) -> Tensor:
        """Return what each token adds to the entropy of its group's spectrum."""
        largest = require_finite(tokens.features, tokens.valid, "erank: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.sizes):
            if n:
                # A common factor changes no p, and without it squares of huge vectors stay numbers.
                factor = largest[row, :n].double().max().clamp(min=1e-300)
                scores[row, :n] = _parts(tokens.features[row, :n].detach().double() / factor)
        return scores

    def demand(self, tokens: Tokens) -> Tensor:
        """Return the effective rank of each group, to the power; 0 for a group whose features are all 0."""
        entropy = self.score(tokens).where(tokens.valid, 0.0).sum(dim=1)
        some = (tokens.features.detach() != 0).any(dim=-1) & tokens.valid
        return (self.power * entropy).exp().where(some.any(dim=1), 0.0)


def _parts(x: Tensor) -> Tensor:
    """Return what each vector adds to the entropy, `[n]`, rounded so that equal vectors tie."""
    wide = x.shape[0] <= x.shape[1]
    square, directions = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    # What rounding leaves of a direction that is not there is none.
    there = square > square[-1] * 1e-12
    length = square.where(there, 0.0).sqrt()
    part = length / length.sum().clamp(min=1e-300)
    entropy = -torch.special.xlogy(part, part)
    own = directions if wide else (x @ directions) / length.where(there, 1.0)
    added: Tensor = (own.square() * there) @ entropy
    return (added * 2.0**24).round() / 2.0**24
