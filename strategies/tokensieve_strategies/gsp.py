"""GSP: Script's graph-structured pruning."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Scorer, Tokens
from tokensieve_strategies._maths.bipartite import bipartite_edges
from tokensieve_strategies._maths.vectors import require_finite

_TIE = 1e-6
"""Tolerance for rounding: similarities this far below the threshold still make an edge."""


class GSP(Scorer):
    """Keeps the tokens that resemble the fewest others, by their degree in a bipartite graph.

    The tokens of a group alternate between two sides by their place. Across the sides,
    M_ij = cos(x_i, x_j), and i and j share an edge where M_ij >= tau. With the degree d_i and the
    mean similarity mu_i over the edges of i, and b_i over all of the other side,

        redundancy_i = a_i = d_i exp(gamma (mu_i - tau)),    or (a_i + b_i) / 2 with few edges,

    and score_i = -redundancy_i. Few are fewer than `low_degree`: by default none, so that tokens
    without edges, whose a_i is 0, go by their mean similarity and not by their place.

    Paper: Script, 2025. How ours differs from the released code: the graph is bipartite, as the
    paper says, but both sides are scored, from one matrix; the least redundant tokens stay, not
    the most redundant; the threshold is by default a quantile of the group's own similarities,
    because a fixed tau such as 0.2 connects nearly all tokens of real features to all others; and
    few edges are none, where the code's are fewer than 4, one of them a token's own. The paper's
    overview shows rounds R = 1 to K, the code has one; so do we.

    Attributes:
        tau: the threshold as a cosine; without it, `quantile` decides.
        quantile: which part of a group's similarities lies below the threshold.
        gamma: how much the strength of the edges counts beside their number.
        low_degree: with fewer edges, a token's mean similarity counts for half.
    """

    name = "gsp"
    paper = "https://arxiv.org/abs/2512.01949"
    complexity = ("O(n² d), a quarter of all pairs", "O(n d)")
    examples = ({}, {"tau": 0.3}, {"quantile": 0.8, "gamma": 0.0, "low_degree": 4})

    tau: float | None = Field(default=None, ge=-1, le=1)
    quantile: float = Field(default=0.5, ge=0, le=1)
    # exp(32 * 2) times any degree is still a float32.
    gamma: float = Field(default=1.0, ge=0, le=32)
    low_degree: int = Field(default=1, ge=1)

    def score(self, tokens: Tokens) -> Tensor:
        """Return the scores of each group, computed from that group alone."""
        largest = require_finite(tokens.features, tokens.valid, "gsp: the features")
        # In float32, values that differ by rounding alone are ties.
        scores = torch.zeros(tokens.valid.shape, dtype=torch.float32, device=tokens.valid.device)
        for row, n in enumerate(tokens.universe.sizes):
            scores[row, :n] = -self.redundancy(tokens.features[row, :n], largest[row, :n])
        return scores

    def redundancy(self, x: Tensor, largest: Tensor | None = None) -> Tensor:
        """Return the redundancy of each of the tokens `x` `[n, d]` of one group, float64 `[n]`.

        Args:
            x: their vectors.
            largest: the largest absolute number of each, where it is known.
        """
        edges = bipartite_edges(x, self.tau, self.quantile, _TIE, largest)
        strength = edges.degree * (self.gamma * edges.excess).exp()
        return strength.where(edges.degree >= self.low_degree, (strength + edges.mean) / 2)
