"""PruMerge: the tokens whose attention is an outlier."""

from __future__ import annotations

import torch
from pydantic import Field

from tokensieve import Chain, Chooser, Evidence, Tokens
from tokensieve_strategies._maths.order import mean_over_heads


class PruMerge(Chooser):
    """Chooses the tokens whose attention is an outlier among that of their group.

    With a_i, the mean over heads of the vision encoder's attention, it chooses

        { i : a_i > Q3 + whisker (Q3 - Q1) },

    where Q1 and Q3 are the quartiles of the group's own n values: the value at place q (n - 1) in
    rising order, counted from 0, between two places interpolated linearly. Where no token is above,
    it chooses the one with the largest a_i, so the set is never empty.

    Paper: Shang et al., LLaVA-PruMerge, ICCV 2025. How ours differs from the released code: the
    outliers themselves are the set; the code takes their share of the tokens, over all pictures of
    the batch together, and so many of each picture. Attention is that of the layer that the
    projector takes, head by head, not of the last one with its heads joined. Tokens stay in their
    order, no token is added for the rest, and `rest: merge` takes a mean and not an unweighted sum.
    PruMerge+ is a formula: these tokens, then others spread evenly (`prumerge | uniform`).

    Attributes:
        whisker: how many quartile ranges above Q3 an outlier begins.
    """

    name = "prumerge"
    paper = "https://arxiv.org/abs/2403.15388"
    complexity = ("O(n log n)", "O(n heads)")
    examples = ({}, {"whisker": 0.0})

    whisker: float = Field(default=1.5, ge=0, allow_inf_nan=False)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The vision encoder's attention."""
        return frozenset({Evidence.VISION_ATTENTION})

    def choose(self, tokens: Tokens) -> Chain:
        """Return the outliers of each group, by the quartiles of the group."""
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "prumerge: the vision attention").double()
        members = torch.zeros_like(tokens.valid)
        for row, n in enumerate(tokens.universe.counts.tolist()):
            if n:
                own = attention[row, :n]
                low, high = own.quantile(0.25), own.quantile(0.75)
                members[row, :n] = own > high + self.whisker * (high - low)
                # The largest is an outlier wherever any is.
                members[row, own.argmax()] = True
        return Chain.from_set(tokens.universe, members, self)
