"""DART: tokens that are least similar to a few pivot tokens."""

from __future__ import annotations

import torch
from pydantic import Field

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.pivots import largest_by_l1_norm
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class DART(Ranker):
    """Keeps a few pivots, and the tokens that resemble one of them least.

    Pivots are the `visual` tokens and the `text` tokens with the largest keys, by |k|_1 = sum over c
    of |k_c|; text is that behind the last picture, not what the system says first. The visual ones
    come first, by falling norm. Then the pivots take turns, the visual ones first and each kind by
    falling norm: pivot p takes j = argmin over i not taken of cos(x_p, x_i), over and over. So after
    m rounds every pivot has m tokens of its own.

    Paper: Wen et al., DART, 2025. How ours differs from the released code: there
    each pivot takes all of its tokens at once, int(n keep / pivots) of them, so that the count
    misses the budget by up to the number of pivots, and who comes first is the order of a hash set;
    here every prefix of one declared order is the answer for its size. We compare the vectors as
    they enter the site; the code brings them through the decoder's final norm first.

    Attributes:
        visual: how many pivots are visual tokens; they stay.
        text: how many pivots are text tokens; all of the text behind the last picture where that is less.
    """

    name = "dart"
    paper = "https://arxiv.org/abs/2502.11494"
    complexity = ("O(p n d), p pivots", "O(n d)")
    examples = ({}, {"visual": 1, "text": 0}, {"visual": 2, "text": 3})

    visual: int = Field(default=4, ge=1, le=64)
    text: int = Field(default=4, ge=0, le=64)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, their keys, and the text tokens."""
        return frozenset({Evidence.FEATURES, Evidence.DECODER_KEYS, Evidence.DECODER_TEXT})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the pivots, then the tokens that the pivots pick in turn."""
        universe, words = tokens.universe, tokens.decoder_text
        require_finite(tokens.features, tokens.valid, "dart: the features")
        require_finite(tokens.decoder_keys, tokens.valid, "dart: the decoder's keys")
        require_finite(words.features, words.mask, "dart: the text's features")
        require_finite(words.keys, words.mask, "dart: the text's keys")
        visual_pivots = largest_by_l1_norm(tokens.decoder_keys, tokens.valid, self.visual)
        asked = words.mask & words.after
        text_pivots = largest_by_l1_norm(words.keys, asked, self.text)
        each = torch.arange(universe.rows, device=universe.device).unsqueeze(1)
        pivots = torch.cat([tokens.features[each, visual_pivots], words.features[each, text_pivots]], dim=1)
        x = normalize(tokens.features.masked_fill(~tokens.valid.unsqueeze(-1), 0))
        similar = round_for_ties(normalize(pivots) @ x.mT)
        # Where there are fewer visual tokens than pivots of them, all are taken before the first turn.
        active = visual_pivots.shape[1] + asked.sum(dim=1).clamp(max=self.text)
        left = tokens.valid.clone()
        picks = torch.full((universe.rows, min(depth, universe.n)), -1, device=universe.device)
        for turn in range(picks.shape[1]):
            if turn < visual_pivots.shape[1]:
                pick = visual_pivots[:, turn : turn + 1]
            else:
                pivot = ((turn - visual_pivots.shape[1]) % active).unsqueeze(1)
                pick = similar[each, pivot].squeeze(1).masked_fill(~left, torch.inf).argmin(dim=1, keepdim=True)
            picks[:, turn : turn + 1] = pick.where(left.any(dim=1, keepdim=True), -1)
            left.scatter_(1, pick, False)
        return Chain.from_picks(universe, picks, self)
