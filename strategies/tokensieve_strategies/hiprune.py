"""HiPrune: tokens with much attention in a middle vision layer, their neighbours, and those of the selected layer."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.grid import neighbours
from tokensieve_strategies._maths.order import descending_order, mean_over_heads, stack_orders


class HiPrune(Ranker):
    """Keeps anchors, their neighbours, and registers, by the attention that tokens receive.

    With m_i and r_i, the attention received in a middle and in the selected layer of the vision
    encoder, averaged over heads, and a budget of k tokens:

        anchors    the a = share k / 5 tokens with the largest m_i, rounded, halves to even;
        buffers    their neighbours on the grid: left, right, above and below;
        registers  the other tokens by falling r_i, until k tokens are in.

    Anchors come first, then buffers by falling m_i, if k is too small for all of them. Another k has
    other anchors, so the sets are not nested, and the method knows its budget.

    Paper: Liu et al., HiPrune, 2025. How ours differs from the released code: an anchor at the end
    of a row has no neighbour at the beginning of the next, and one at the border no neighbour in
    the corner; newline tokens are nobody's neighbours; budgets are per group, not divided over tiles.

    Attributes:
        share: which part of the budget anchors and buffers take, if none coincide.
    """

    name = "hiprune"
    nested = False
    paper = "https://arxiv.org/abs/2508.00553"
    complexity = ("O(n log n)", "O(n heads)")
    examples = ({}, {"share": 0.9})

    share: float = Field(default=0.1, ge=0, le=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention received in both layers, and the grid."""
        return frozenset({Evidence.VISION_MIDDLE, Evidence.VISION_RECEIVED, Evidence.GRID})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens."""
        middle = mean_over_heads(tokens.vision_middle, tokens.valid, "hiprune: the middle layer's attention")
        last = mean_over_heads(tokens.vision_received, tokens.valid, "hiprune: the attention received")
        orders = [
            self._order(middle[row, :n], last[row, :n], tokens.grid[row, :n], depth)
            for row, n in enumerate(tokens.universe.counts.tolist())
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, middle: Tensor, last: Tensor, grid: Tensor, k: int) -> Tensor:
        tier = torch.full_like(grid[:, 0], 2)
        by_middle, by_last = descending_order(middle), descending_order(last)
        anchors = by_middle[: round(simplest(self.share) * k / 5)]
        around = neighbours(grid)[anchors].flatten()
        tier[around[around >= 0]] = 1
        tier[anchors] = 0
        return torch.cat(
            [by_middle[tier[by_middle] == 0], by_middle[tier[by_middle] == 1], by_last[tier[by_last] == 2]]
        )
