"""SparseVLM, version 1.0: the attention of the text tokens that match the image."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Chain, Evidence, Scorer, Tokens
from tokensieve_strategies._maths.raters import no_text_notes, raters
from tokensieve_strategies._maths.vectors import require_finite


class SparseVLM(Scorer):
    """Keeps the tokens to which the text tokens that match the image attend most.

    Of the text tokens t from which attention reaches the group, the raters are those with

        M_t > mean over t of M_t,    M_t = mean over visual tokens v of softmax over t of v · t,

    with all vectors as they entered the language model. Then score_i = mean over raters t of
    A[t, i], where A is the softmaxed attention of the layer before the cut, averaged over heads.

    Paper: Zhang et al., SparseVLM, ICML 2025; version 1.0 of its code, which is the one that runs
    unless another is asked for. Version 2.0 is `sparsevlm_v2`. How ours differs from the released
    code: batches and several images work; where no word is above the mean, as for a single word, all of them rate;
    the budgets are set by the recipe; and the tokens that go are not clustered into new
    ones, which the code appends beyond its budget, with random numbers in their densities. Without
    text all scores are 0, and a note says so.
    """

    name = "sparsevlm"
    paper = "https://arxiv.org/abs/2410.04417"
    complexity = ("O(n m d), m words", "O(n m)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The text tokens of the prompt, with their attention."""
        return frozenset({Evidence.DECODER_TEXT})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean attention of the raters."""
        words, valid = tokens.decoder_text, tokens.valid
        attention = words.attention.masked_fill(~words.mask.unsqueeze(1), 0)
        require_finite(attention, valid, "sparsevlm: the text's attention")
        require_finite(words.patch, valid, "sparsevlm: the visual embeddings")
        require_finite(words.embeddings, words.mask, "sparsevlm: the text's embeddings")
        attention = attention.double().masked_fill(~valid.unsqueeze(-1), 0)
        rates = raters(words, valid, words.mask & (attention > 0).any(dim=1))
        total = (attention * rates.unsqueeze(1)).sum(dim=2)
        # In float32, values that differ by rounding alone are ties.
        return (total / rates.sum(dim=1, keepdim=True).clamp(min=1)).float()

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of scores, with a note for each row without text."""
        notes = no_text_notes(tokens.decoder_text, tokens.valid, "sparsevlm")
        return Chain.from_scores(tokens.universe, self.score(tokens), self, notes)
