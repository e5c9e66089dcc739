"""VisPruner: the tokens with the most attention, and others that are least similar to each other."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.nearest import Nearest
from tokensieve_strategies._maths.order import descending_order, mean_over_heads, stack_orders
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class VisPruner(Ranker):
    """Keeps important tokens by attention, and thins out the rest until it fits.

    Of k places, floor(rho k) go to the tokens with the largest attention, averaged over heads. The
    others, by falling attention, are thinned out round by round: they alternate between two sides a
    and b by their place in the list, s_i = max over j in b of cos(f_i, f_j) for i in a, with f the
    vision encoder's features; the `step` tokens of a with the largest s_i go, or as few as must; and
    the rest of a, then b, is the next list, until k - floor(rho k) remain. Another k has another
    list, so the sets are not nested, and the method knows its budget.

    Paper: Zhang et al., VisPruner, ICCV 2025. How ours differs from the released code: any number of
    remaining tokens works, where the code fails on odd ones; budgets are per group, not per tile; and
    the rest of a keeps its order, where the code orders it anew by falling s_i. That changes the two
    sides of all later rounds, and with it most of the tokens that are kept for their difference;
    `order: similarity` is the code's. Memory is O(n²) a group, its similarities, computed once.

    Attributes:
        rho: which part of the places goes to important tokens.
        step: how many tokens a round drops at most.
        order: in which order the rest of a is listed: by `attention`, as at first, or by `similarity`.
    """

    name = "vispruner"
    nested = False
    paper = "https://arxiv.org/abs/2412.01818"
    complexity = ("O(n² d)", "O(n²)")
    examples = ({}, {"rho": 0.75, "step": 3}, {"rho": 0.0, "step": 1}, {"order": "similarity"})
    known_failures: ClassVar = {
        "ties_by_id": "which side a token is on, and so what it is compared with, goes by its place"
    }

    rho: float = Field(default=0.5, ge=0, le=1)
    step: int = Field(default=8, ge=1)
    order: Literal["attention", "similarity"] = "attention"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The vision encoder's attention and features."""
        return frozenset({Evidence.VISION_ATTENTION, Evidence.VISION_FEATURES})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens, important ones first."""
        require_finite(tokens.vision_features, tokens.valid, "vispruner: the vision features")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "vispruner: the vision attention")
        orders = [
            self._order(tokens.vision_features[row, :n], attention[row, :n], depth)
            for row, n in enumerate(tokens.universe.counts.tolist())
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, attention: Tensor, k: int) -> Tensor:
        by_attention = descending_order(attention)
        k = min(k, len(x))
        important = math.floor(simplest(self.rho) * k)
        rest = by_attention[important:]
        direction = normalize(x[rest])
        similar = round_for_ties(direction @ direction.T)
        left = torch.arange(len(rest), device=rest.device)
        nearest = Nearest(similar)
        while len(left) > k - important:
            a, b = left[0::2], left[1::2]
            # A single token is similar to no other, and is dropped if the budget requires it.
            best = nearest.similarity(a, b) if len(b) else similar.new_zeros(1)
            stays = descending_order(best)[min(self.step, len(left) - (k - important)) :]
            left = torch.cat([a[stays if self.order == "similarity" else stays.sort().values], b])
        return torch.cat([by_attention[:important], rest[left.sort().values]])
