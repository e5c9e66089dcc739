"""VisionZip: the tokens with the most attention, and merged tokens that stand for the rest."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.order import descending_order, mean_over_heads, stack_orders
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class VisionZip(Merger):
    """Keeps dominant tokens by attention, and contextual ones that stand for the rest.

    Of k places, d = ceil(share k) go to the tokens with the largest attention, averaged over heads;
    these are dominant. Of the R others, in their order, every floor(R / c)-th, beginning with the
    first, is one of c = k - d contextual targets. Each token that is neither joins its most similar
    target by the cosine of the vision encoder's keys, and a target becomes the mean of its own.
    Another k has other targets, so the sets are not nested, and the method knows its budget.

    Paper: Yang et al., VisionZip, CVPR 2025. How ours differs from the released code: CLS is not
    among the tokens, which is one dominant token more; the code counts CLS, and sends it through a
    projector that never saw it. The code adds a target and the mean of what joined it, a vector
    twice as long as a token; ours is the mean of all of them, weighted by size. Tokens stay in
    their order. Where no place is left for targets, the rest joins the most similar dominant token.

    Attributes:
        share: which part of the places is for dominant tokens; 27/32 gives 54 and 10 of 64.
    """

    name = "visionzip"
    nested = False
    paper = "https://arxiv.org/abs/2412.04467"
    complexity = ("O(n k d)", "O(n (d + k))")
    examples = ({}, {"share": 0.5}, {"share": 1.0})
    known_failures: ClassVar = {"ties_by_id": "contextual targets are spread evenly over the rest"}

    share: float = Field(default=27 / 32, gt=0, le=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The vision encoder's attention and keys, and the sizes of the tokens."""
        return frozenset({Evidence.VISION_ATTENTION, Evidence.VISION_KEYS, Evidence.SIZES})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens, dominant ones first."""
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "visionzip: the vision attention")
        orders = [
            torch.cat(self._chosen(attention[row, :n], depth)) for row, n in enumerate(tokens.universe.counts.tolist())
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge the rest into the contextual targets."""
        require_finite(tokens.vision_keys, tokens.valid, "visionzip: the vision keys")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "visionzip: the vision attention")
        kept = torch.zeros_like(tokens.valid)
        owner = torch.zeros_like(tokens.ids)
        for row, (n, k) in enumerate(torch.stack([tokens.universe.counts, keep], dim=1).tolist()):
            dominant, targets = self._chosen(attention[row, :n], k)
            kept[row, dominant] = kept[row, targets] = True
            homes = targets if len(targets) else dominant.sort().values
            if len(homes):
                direction = normalize(tokens.vision_keys[row, :n])
                owner[row, :n] = homes[round_for_ties(direction @ direction[homes].T).argmax(dim=1)]
        return Reduction.merge(tokens.universe, kept, owner, tokens.sizes)

    def _chosen(self, attention: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the places of the dominant and of the contextual tokens of one group."""
        k = min(k, len(attention))
        dominant = descending_order(attention)[: math.ceil(simplest(self.share) * k)]
        free = torch.ones_like(attention, dtype=torch.bool).index_fill(0, dominant, False)
        rest = free.nonzero().flatten()
        few = k - len(dominant)
        return dominant, rest[:: max(1, len(rest) // max(1, few))][:few]
