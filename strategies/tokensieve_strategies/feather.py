"""FEATHER: the attention of the prompt's last token, without rotary positions."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve_strategies._maths.vectors import require_finite


class Feather(Scorer):
    """Keeps the tokens to which the prompt's last token attends most, regardless of their positions.

    score_i = mean over heads h of softmax over the group's tokens i of q_h · k_hi / sqrt(d), with
    query and keys of the layer before the cut, taken before rotary positions are applied. Rotary positions
    favour the tokens nearest to the text, which are the bottom of the image.

    Paper: Endo et al., Feather the Throttle, ICCV 2025. How ours differs from the released code: the
    tokens that it adds on a grid of stride 3 are a matter of the recipe (`feather | uniform`), and
    such a union is cut to the budget, where the code keeps as many as it has. Batches and several
    images work. A head without any attention to the group does not count.
    """

    name = "feather"
    paper = "https://arxiv.org/abs/2412.13180"
    complexity = ("O(n heads)", "O(n heads)")

    @property
    def needs(self) -> frozenset[Evidence]:
        """The attention of the prompt's last token, without rotary positions."""
        return frozenset({Evidence.DECODER_CONTENT})

    def score(self, tokens: Tokens) -> Tensor:
        """Return the mean over heads of the attention, normalised over the tokens of the group."""
        require_finite(tokens.decoder_content, tokens.valid, "feather: the decoder's attention without positions")
        attention = tokens.decoder_content.double().masked_fill(~tokens.valid.unsqueeze(-1), 0)
        total = attention.sum(dim=1, keepdim=True)
        # A softmax over all tokens, normalised over a group, is the softmax over the group.
        share = attention / total.where(total > 0, 1.0)
        # In float32, values that differ by rounding alone are ties.
        return share.mean(dim=2).float()
