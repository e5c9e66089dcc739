"""FEATHER: what the prompt's last token attends to by content alone."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.vectors import require_finite


class Feather(Scorer):
    """Keeps the tokens to which the prompt's last token attends most, wherever they stand.

    score_i = mean over heads h of softmax over the group's tokens i of q_h · k_hi / sqrt(d), with
    query and keys of the layer before the cut as they are before rotary positions are put into them.
    Those favour the tokens nearest to the text, which are the bottom of the picture.

    Paper: Endo et al., Feather the Throttle, ICCV 2025. How ours differs from the released code: the
    tokens that it adds on a grid of stride 3 are a matter of the recipe (`feather | uniform`), and
    such a union is cut to the budget, where the code keeps as many as it has. Batches and several
    images work. A head that gives nothing to the group has no say in it.
    """

    name = "feather"
    paper = "https://arxiv.org/abs/2412.13180"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The last row of the decoder's attention, without rotary positions."""
        return frozenset({Evidence.DECODER_CONTENT})

    def score(self, tokens: Tokens) -> Tensor:
        """Share every head's attention among the group's tokens, and average."""
        require_finite(tokens.decoder_content, tokens.valid, "feather: the decoder's attention without positions")
        attention = tokens.decoder_content.double().masked_fill(~tokens.valid.unsqueeze(-1), 0)
        total = attention.sum(dim=1, keepdim=True)
        # A softmax over all tokens, shared among some of them, is the softmax over these.
        share = attention / total.where(total > 0, 1.0)
        # To float32: what float64 leaves to rounding is a tie.
        return share.mean(dim=2).float()
