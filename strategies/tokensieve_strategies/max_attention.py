"""Attention of the question: the largest that a token gets from any word of it, as in the second half of PruneVid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokensieve import Chain, Evidence, Scorer, Tokens
from tokensieve_strategies._maths.raters import no_text_notes
from tokensieve_strategies._maths.vectors import require_finite


class MaxAttention(Scorer):
    """Keeps the tokens that some token of the question attends to most.

    A token's score is the largest attention, averaged over heads, that it gets in the layer before from any text
    token after the prompt's last visual token.

    Paper: the second half of PruneVid, which also shortens the key-value caches of the layers before; ours leaves
    them as they are.
    """

    name = "max_attention"
    paper = "https://arxiv.org/abs/2412.16117"
    complexity = ("O(n m), m text tokens", "O(n m)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The text's attention in the layer before."""
        return frozenset({Evidence.DECODER_TEXT})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the largest attention of each token, float32 `[rows, n]`; 0 where no text follows."""
        text = tokens.decoder_text
        asked = text.after & text.mask
        require_finite(text.attention, tokens.valid, "max_attention: the attention")
        largest = text.attention.double().masked_fill(~asked.unsqueeze(1), -torch.inf)
        if not largest.shape[2]:
            return torch.zeros(tokens.valid.shape, device=tokens.valid.device)
        return largest.amax(dim=2).where(asked.any(dim=1, keepdim=True) & tokens.valid, 0.0).float()

    def judge(self, tokens: Tokens, depth: int) -> Chain:
        """Return the order of scores, with a note for each row in which no text follows."""
        text = tokens.decoder_text
        notes = no_text_notes(replace(text, mask=text.after & text.mask), tokens.valid, "max_attention")
        return Chain.from_scores(tokens.universe, self.score(tokens), self, notes)
