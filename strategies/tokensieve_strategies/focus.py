"""Focus: over how many tokens the vision encoder's attention spreads."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Appraiser, Evidence, Tokens
from tokensieve_strategies._maths.order import mean_over_heads


class Focus(Appraiser):
    """Keeps the tokens that are attended most, and says over how many the attention of a picture spreads.

    With a_i the attention to token i, the mean over heads as `cls` has it, and p_i = a_i / sum of all a,

        score_i = p_i,    demand = exp(H)^power,    H = - sum over i of p_i log p_i,

    so the demand is 1 where one token has all attention, and n where all have the same; 0 without any. An
    empty page is attended everywhere, too, and needs most by this measure: `erank` does not say so.

    Paper: Baek et al., AgilePruner, ICLR 2026, which measures pictures by the entropy of attention beside the
    effective rank; read in its abstract and in summaries. There it moves the threshold of a selection whose
    budget is the same for every picture. That it shares a budget, the exponential and the power are ours. No
    code was read.

    Attributes:
        power: of the number of tokens; a larger one gives more to pictures that need more.
    """

    name = "focus"
    paper = "https://arxiv.org/abs/2603.01236"
    complexity = ("O(n heads)", "O(n heads)")
    examples = ({}, {"power": 4.0})

    power: float = Field(default=1.0, gt=0, le=64)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention of the vision encoder's class token, or that which a token receives."""
        return frozenset({Evidence.VISION_ATTENTION})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the part of its group's attention that each token has."""
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "focus: the vision attention")
        own = attention.double().where(tokens.valid, 0.0)
        total = own.sum(dim=1, keepdim=True)
        part: Tensor = own / total.where(total > 0, 1.0)
        return part

    def demand(self, tokens: Tokens) -> Tensor:
        """Return over how many tokens the attention of each group spreads, to the power; 0 where there is none."""
        part = self.score(tokens)
        entropy: Tensor = -torch.special.xlogy(part, part).sum(dim=1)
        return (self.power * entropy).exp().where(part.sum(dim=1) > 0, 0.0)
