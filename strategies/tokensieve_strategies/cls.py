"""CLS: the attention of the vision encoder's class token."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.order import mean_over_heads


class CLS(Scorer):
    """Keeps the tokens to which the vision encoder's class token attends most.

    score_i = mean over heads h of A[h, cls, i], where A is the softmaxed attention of the layer whose
    output the projector takes. An encoder without a class token gives the attention that a token
    receives on average instead.

    Paper: FasterVLM, 2024, which is this alone; VisionZip and VisPruner begin with it. How ours
    differs from the released code: the adapter says which token is the class token, while the code
    takes the first one; batches, tiles and encoders without one work; and the budget is that of the
    image, where the code keeps that many tokens of every tile.
    """

    name = "cls"
    paper = "https://arxiv.org/abs/2412.01818"
    complexity = ("O(n heads)", "O(n heads)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention of the vision encoder's class token."""
        return frozenset({Evidence.VISION_ATTENTION})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean over heads."""
        return mean_over_heads(tokens.vision_attention, tokens.valid, "cls: the vision attention")
