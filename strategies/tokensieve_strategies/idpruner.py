"""IDPruner: important tokens that do not resemble those already kept, by maximal marginal relevance."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.order import mean_over_heads, stack_orders
from tokensieve_strategies._maths.vectors import (
    CLOSE,
    in_float32,
    no_autocast,
    normalize,
    require_finite,
    round_for_ties,
    unit_float32,
)

_CLOSE = {torch.float64: 2.0**-29, torch.float32: 2 * CLOSE}
"""Scores with a smaller difference count as equal."""


class IDPruner(Ranker):
    """Keeps tokens that are important and unlike those kept before, by maximal marginal relevance (MMR).

    With the importance a_i, the vision encoder's attention averaged over heads and brought to [0, 1] within
    the group, the next pick is

        argmax over i not picked of balance a_i - (1 - balance) max over picked s of cos(x_i, x_s),

    and the first one the most important token. Scores closer than rounding are one, and the lowest id wins.

    Paper: Tan et al., IDPruner, 2026. How ours differs: the authors train a module, VisionSelector, that says
    how important a token is; of that we have no weights, so attention stands for it. A group whose tokens
    have equal attention has the importance 0. Their code, in AngelSlim, was not read.

    Attributes:
        balance: how much importance counts beside difference: 1 is attention alone, 0 difference alone.
    """

    name = "idpruner"
    paper = "https://arxiv.org/abs/2602.13315"
    complexity = ("O(n² d + n k)", "O(n²)")
    examples = ({}, {"balance": 0.0}, {"balance": 1.0})

    balance: float = Field(default=0.5, ge=0, le=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the vision encoder's attention."""
        return frozenset({Evidence.FEATURES, Evidence.VISION_ATTENTION})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of picks."""
        require_finite(tokens.features, tokens.valid, "idpruner: the features")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "idpruner: the vision attention")
        orders = [
            self._order(tokens.features[row, :n].detach(), attention[row, :n], min(depth, n))
            for row, n in enumerate(tokens.universe.sizes)
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, attention: Tensor, depth: int) -> Tensor:
        picks = torch.zeros(depth, dtype=torch.int64, device=x.device)
        if not depth:
            return picks
        similar = _cosines(x)
        low, high = attention.aminmax()
        important = ((attention - low).double() / (high - low).double().clamp(min=1e-300)).to(similar.dtype)
        score, nearest = important, torch.full_like(important, -1.0)
        gone = torch.zeros_like(score, dtype=torch.bool)
        for turn in range(depth):
            picks[turn] = pick = (score >= score.max() - _CLOSE[score.dtype]).to(torch.uint8).argmax()
            gone[pick] = True
            nearest = torch.maximum(nearest, similar[pick])
            score = (self.balance * important - (1 - self.balance) * nearest).masked_fill(gone, -torch.inf)
        return picks


def _cosines(x: Tensor) -> Tensor:
    """Return the cosines of all pairs, `[n, n]`; in float32 where there are many."""
    if not in_float32(len(x), x.shape[1], x.device):
        direction = normalize(x)
        return round_for_ties(direction @ direction.T)
    with no_autocast(x.device):
        unit = unit_float32(x)
        return unit @ unit.T
