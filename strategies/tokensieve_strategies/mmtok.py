"""MMTok: tokens that together cover the question and the image."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.coverage import greedy_cover
from tokensieve_strategies._maths.order import stack_orders
from tokensieve_strategies._maths.vectors import (
    in_float32,
    no_autocast,
    normalize,
    require_finite,
    round_for_ties,
    unit_float32,
)

_NOTHING = 1e-9
"""A gain that is a smaller part of what is covered counts as none."""


class MMTok(Ranker):
    """Keeps tokens that together cover the words of the question and all tokens of the picture.

    With the m text embeddings t, the n tokens x and the vision encoder's own vectors f of them,

        P_ri = softmax over i of cos(t_r, x_i) / text_temperature,    [m, n]
        Q_ji = softmax over i of cos(f_j, f_i) / vision_temperature,  [n, n]
        C = [P / m; alpha Q / n],    F(S) = sum over rows r of max over i in S of C_ri.

    The order is that of greedy maximisation of F, which covers rows by their best token so far
    (facility location); the first place is where the largest column sum is. Gains within 1e-9 of the
    best, relatively, are one, and the lowest id wins; where all that is left covers nothing more, as
    copies do, a note says that the rest is in their order. A row without a question has no P.

    Paper: Dong et al., MMTok, ICLR 2026. How ours differs from the released code: batches work, and
    all words of the question count, where the code takes its keywords. Memory is O((m + n) n) a group.

    Attributes:
        text_temperature: how sharply a word of the question is matched.
        vision_temperature: how sharply a token of the picture is matched.
        alpha: how much the picture counts beside the question.
    """

    name = "mmtok"
    paper = "https://arxiv.org/abs/2508.18264"
    complexity = ("O((m + n) n (d + k)), m words", "O((m + n) n)")
    examples = ({}, {"text_temperature": 0.5, "alpha": 0.0}, {"vision_temperature": 1.0, "alpha": 2.0})

    text_temperature: float = Field(default=0.02, ge=1e-3, allow_inf_nan=False)
    vision_temperature: float = Field(default=0.2, ge=1e-3, allow_inf_nan=False)
    alpha: float = Field(default=0.5, ge=0, allow_inf_nan=False)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features at the site and in the vision encoder, and the embeddings of the question."""
        return frozenset({Evidence.FEATURES, Evidence.TEXT_FEATURES, Evidence.VISION_FEATURES})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        text = tokens.text_features
        require_finite(tokens.features, tokens.valid, "mmtok: the features")
        require_finite(tokens.vision_features, tokens.valid, "mmtok: the vision features")
        require_finite(text.features, text.mask, "mmtok: the text's features")
        orders, notes = [], []
        for row, n in enumerate(tokens.universe.sizes):
            words = text.features[row][text.mask[row]]
            picture = tokens.vision_features[row, :n]
            parts = [self._matched(picture, picture, self.vision_temperature) * (self.alpha / max(1, n))]
            if len(words):
                parts.append(self._matched(words, tokens.features[row, :n], self.text_temperature) / len(words))
            # Where one of the two is in float32, both are.
            quick = any(part.dtype == torch.float32 for part in parts)
            cover = torch.cat([part.float() if quick else part for part in parts])
            orders.append(greedy_cover(cover, min(depth, n)))
            reached = cover[:, orders[-1]].cummax(dim=1).values.sum(dim=0)
            # Gains never grow, so what is short of the whole by rounding alone is the beginning.
            growing = int((reached < reached[-1:] * (1 - _NOTHING)).sum()) + 1
            if growing < len(orders[-1]):
                notes.append(
                    f"mmtok: {growing} picks cover all that there is in row {row}; "
                    f"{len(orders[-1]) - growing} places filled by place"
                )
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self, tuple(notes))

    def _matched(self, rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
        """Return the softmax over columns of the cosines, `[rows, columns]`; in float32 where there are many."""
        if not in_float32(len(columns), columns.shape[1], columns.device):
            return (round_for_ties(normalize(rows) @ normalize(columns).T) / temperature).softmax(dim=1)
        with no_autocast(columns.device):
            own = unit_float32(columns)
            similar = (own if rows is columns else unit_float32(rows)) @ own.T
        return similar.div_(temperature).softmax(dim=1)
