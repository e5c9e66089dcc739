"""CLS: what the vision encoder attends to."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.order import over_heads


class CLS(Scorer):
    """Keeps the tokens to which the vision encoder's class token attends most.

    score_i = mean over heads h of A[h, cls, i], where A is the softmaxed attention of the layer whose
    output the projector takes. An encoder without a class token gives the attention that a token
    receives on average instead.

    Paper: FasterVLM, 2024, which is this alone; VisionZip and VisPruner begin with it. How ours
    differs from the released code: the class token is told by the adapter, not taken to be the
    first one; batches, tiles and encoders without one work; and the budget is of the picture, where
    the code keeps that many of every tile.
    """

    name = "cls"
    paper = "https://arxiv.org/abs/2412.01818"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The class token's row of the vision encoder's attention."""
        return frozenset({Evidence.VISION_ATTENTION})

    def score(self, tokens: Tokens) -> Tensor:
        """Average over heads."""
        return over_heads(tokens.vision_attention, tokens.valid, "cls: the vision attention")
