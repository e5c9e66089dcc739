"""PixelPrune: the tokens that their left and upper neighbours do not predict."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Chooser, Evidence, Tokens
from tokensieve_strategies._maths.grid import diagonals, neighbours
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties

_BEFORE = ((0, -1), (-1, 0), (-1, -1))
"""Left, above, and above on the left, by rows down and columns across."""


class PixelPrune(Chooser):
    """Chooses the tokens that differ from what is predicted of them, in the order in which a picture is read.

    With A, B and C, the values to the left of token i, above it, and above on the left, the prediction is

        P = B  if D(C, A) <= tau < D(C, B): an edge runs from above to below,
        P = A  otherwise;

    the one neighbour that there is, where there is one; none at the first token. The set is

        { i : D(x_i, P_i) > tau },

    and a token without a prediction. A token outside of the set has the value P from there on, so errors do not add up.
    D is the largest absolute difference of two vectors, their mean one, or the root of their mean square. Other
    budgets than `auto` take so many tokens by D(x_i, P_i), those without a prediction first.

    Meant for `pixel.0`, where vectors are normalised pixels and tau = 0 leaves out exact repetitions alone;
    it judges whatever vectors enter its site.

    Paper: Wang et al., PixelPrune, 2026. How ours differs: its tau is of pixels in [0, 1], ours of the vectors as they
    are, which processors divide by a deviation (0.5 in Qwen3-VL, about 0.27 in Qwen2-VL), so a tau of 0.05
    is 0.1 or 0.19 here; every frame of a video is read by itself; the paper has no other budget.

    Attributes:
        tau: the largest difference from its prediction with which a token is left out.
        metric: how vectors differ.
    """

    name = "pixelprune"
    paper = "https://arxiv.org/abs/2604.00886"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"tau": 0.5, "metric": "mae"}, {"tau": 1.0, "metric": "rmse"})

    tau: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    metric: Literal["max", "mae", "rmse"] = "max"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    def choose(self, tokens: Tokens) -> Chain:
        """Return the set of each group; among more or fewer tokens than it has, the difference decides."""
        require_finite(tokens.features, tokens.valid, "pixelprune: the features")
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float64, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.sizes):
            scores[row, :n] = self._differences(tokens.features[row, :n], tokens.grid[row, :n])
        sizes = ((scores > self.tau) & tokens.valid).sum(dim=1)
        return Chain.from_scores(tokens.universe, scores, self).fix(sizes)

    def _differences(self, x: Tensor, grid: Tensor) -> Tensor:
        """Return how much each of `x` `[n, d]` differs from its prediction, infinite where there is none."""
        left, above, corner = neighbours(grid, _BEFORE).unbind(dim=1)
        score = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        # Whose vector a token has from there on.
        value = torch.arange(len(x), device=x.device)
        # What a token is predicted from lies on diagonals before its own, so a diagonal is one step.
        for i in diagonals(grid):
            a, b, c = (torch.where(side[i] < 0, -1, value[side[i].clamp(min=0)]) for side in (left, above, corner))
            edge = (a >= 0) & (c >= 0) & (self._distance(x, c, a) <= self.tau) & (self._distance(x, c, b) > self.tau)
            guess = torch.where((b >= 0) & (edge | (a < 0)), b, a)
            score[i] = torch.where(guess < 0, torch.inf, self._distance(x, i, guess))
            value[i] = torch.where(score[i] > self.tau, i, guess)
        return score

    def _distance(self, x: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """Return the distance between the vectors at two lists of places; of a place -1 it means nothing."""
        difference = (x[one.clamp(min=0)].double() - x[other.clamp(min=0)].double()).abs()
        if self.metric == "max":
            return difference.amax(dim=1) if x.shape[1] else difference.sum(dim=1)
        mean = difference.mean(dim=1) if self.metric == "mae" else difference.square().mean(dim=1).sqrt()
        return round_for_ties(mean)
