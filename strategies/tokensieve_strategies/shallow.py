"""Shallow: the attention that tokens receive in a middle vision layer."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.order import mean_over_heads


class Shallow(Scorer):
    """Keeps the tokens that receive the most attention in a middle layer of the vision encoder.

    score_i = mean over heads of the attention that token i receives there, from all tokens of its picture.

    A layer in which attention still goes to details of each part of the picture; what is deep in the encoder
    attends to a few tokens for the whole (`cls`). By windows, it is the local scan of VScan:
    `per_group(shallow, by=window, size=6)`.

    Paper: Zhang et al., VScan, TMLR 2026. How ours differs: it takes the attention of the class token in the
    sixth layer of 24; here it is what all tokens give in the layer that adapters offer, the ninth.
    """

    name = "shallow"
    paper = "https://arxiv.org/abs/2505.22654"
    complexity = ("O(n log n)", "O(n heads)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention received in a middle layer."""
        return frozenset({Evidence.VISION_MIDDLE})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean attention that each token receives."""
        return mean_over_heads(tokens.vision_middle, tokens.valid, "shallow: the middle layer's attention")
