"""Diversity: how unlike each other the tokens of a picture are, and how unlike the others each of them is."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Appraiser, Tokens
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class Diversity(Appraiser):
    """Keeps the tokens that are least like all others, and says how unlike each other a picture's tokens are.

    Of a group's n tokens,

        score_i = 1/(n - 1) sum over j != i of (1 - cos(x_i, x_j)),

    and the demand of the group is the mean of the scores, which is the mean distance of two tokens, to the
    given power. A group of one token has none. The cosines of a token are summed as one product with the sum
    of all directions.

    Paper: Zhang et al., TrimTokenator-LC, 2025, whose intra-image diversity the demand is; read in its abstract
    and in summaries. How the paper joins it with the variation between images was not seen, so a picture's part
    of a budget is in proportion to this alone; the score and the power are ours. No code was read.

    Attributes:
        power: of the mean distance; a larger one gives more to pictures that need more.
    """

    name = "diversity"
    paper = "https://arxiv.org/abs/2512.22748"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"power": 4.0})

    power: float = Field(default=1.0, gt=0, le=64)

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean distance of each token to the others of its group."""
        require_finite(tokens.features, tokens.valid, "diversity: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.sizes):
            if n > 1:
                direction = normalize(tokens.features[row, :n].detach())
                cosines = direction @ direction.sum(dim=0) - direction.square().sum(dim=1)
                scores[row, :n] = round_for_ties(1 - cosines / (n - 1))
        return scores

    def demand(self, tokens: Tokens) -> Tensor:
        """Return the mean distance of two tokens of each group, in [0, 2], to the power."""
        scores = self.score(tokens).where(tokens.valid, 0.0)
        mean: Tensor = scores.sum(dim=1) / tokens.universe.counts.clamp(min=1)
        return mean.clamp(min=0) ** self.power
