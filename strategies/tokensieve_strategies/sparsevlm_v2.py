"""SparseVLM, version 2.0: attention freed of its positions, in the heads that look at the image."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Scorer, Tokens
from tokensieve_strategies._maths.raters import heads_with_most, no_text_notes, raters
from tokensieve_strategies._maths.vectors import require_finite

_LEAST = 2.0**-20
"""A bias nearer to 0 than this counts as this, so that no attention becomes infinite."""


class SparseVLMv2(Scorer):
    """Keeps the tokens to which matching text attends most, in the heads that look at the image, positions apart.

    Raters are those of version 1.0, `sparsevlm`: text tokens t with M_t > mean over t of M_t, where
    M_t = mean over visual tokens v of softmax over t of v · t. With A_h the softmaxed attention of
    head h in the layer before the cut, and B[t, i] the score that rotary positions alone give a pair,
    which is that of two vectors of ones turned to their positions,

        G_h[t, i] = A_h[t, i] / B[t, i],    score_i = mean over heads h and raters t of G_h[t, i],

    over the `heads` heads whose G_h has the largest sum over raters and visual tokens.

    Paper: Zhang et al., SparseVLM+, 2025, which is version 2.0 of the code of SparseVLM; it runs if
    `USE_VERSION` asks for it. How ours differs from the released code: batches and several images
    work, and heads are chosen for each image; where no word is above the mean, as for a single word,
    all of them rate; a model with fewer heads uses all. As in the code, a pair so far apart that B is
    negative counts against the token, and nothing is clustered. Without text all scores are 0, and a
    note says so.

    Attributes:
        heads: how many heads count; the code's 14 are of 32, or of 28 in Qwen2.5-VL.
    """

    name = "sparsevlm_v2"
    paper = "https://arxiv.org/abs/2410.04417"
    complexity = ("O(n m (d + heads)), m words", "O(n m heads)")
    examples = ({}, {"heads": 2})

    heads: int = Field(default=14, ge=1)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The text tokens of the prompt, and their attention head by head."""
        return frozenset({Evidence.DECODER_TEXT, Evidence.DECODER_TEXT_HEADS})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean of the raters' attention over its bias, in the heads that have most of it."""
        words, seen, valid = tokens.decoder_text, tokens.decoder_text_heads, tokens.valid
        pairs = valid.unsqueeze(2) & seen.mask.unsqueeze(1)
        attention = seen.attention.masked_fill(~seen.mask[:, None, :, None], 0)
        require_finite(attention.flatten(2), valid, "sparsevlm_v2: the text's attention")
        require_finite(seen.bias.masked_fill(~seen.mask.unsqueeze(1), 0), valid, "sparsevlm_v2: the positions' scores")
        require_finite(words.patch, valid, "sparsevlm_v2: the visual embeddings")
        require_finite(words.embeddings, words.mask, "sparsevlm_v2: the text's embeddings")
        attention = attention.double().masked_fill(~pairs.unsqueeze(-1), 0)
        rates = raters(words, valid, words.mask & (attention > 0).any(dim=3).any(dim=1))
        bias = seen.bias.double().masked_fill(~pairs, 1)
        bias = bias.where(bias.abs() >= _LEAST, _LEAST)
        # [rows, n, heads]: each token's part of each head, summed over raters.
        found = (attention / bias.unsqueeze(-1)).masked_fill(~rates[:, None, :, None], 0).sum(dim=2)
        chosen = heads_with_most(found.sum(dim=1), self.heads)
        total = found.masked_fill(~chosen.unsqueeze(1), 0).sum(dim=2)
        number = (rates.sum(dim=1, keepdim=True) * min(self.heads, chosen.shape[1])).clamp(min=1)
        return (total / number).float()

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of scores, with a note for each row without text."""
        notes = no_text_notes(tokens.decoder_text, tokens.valid, "sparsevlm_v2")
        return Chain.from_scores(tokens.universe, self.score(tokens), self, notes)
