"""FastV: the attention of the prompt's last token."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens


class FastV(Scorer):
    """Keeps the tokens to which the prompt's last token attends most.

    score_i = mean over heads h of A[h, last, i], where A is the softmaxed attention of the layer
    before the cut.

    Paper: Chen et al., An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024. Its text averages the
    attention received from all tokens, its code takes the last token's; so do we. Batches, left
    padding and several images work, and the number of kept tokens is set by the recipe
    (`keep`).
    """

    name = "fastv"
    paper = "https://arxiv.org/abs/2403.06764"
    complexity = ("O(n heads)", "O(n heads)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention of the prompt's last token in the layer before the site."""
        return frozenset({Evidence.DECODER_ATTENTION})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean over heads."""
        return tokens.decoder_attention.double().mean(dim=-1)
