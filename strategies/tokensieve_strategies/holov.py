"""HoloV: tokens from everywhere, most from where there is most to see."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.algebra.budget import apportion
from tokensieve_strategies._maths.order import falling, over_heads, runs, stacked
from tokensieve_strategies._maths.vectors import require_finite, settle, unit


class HoloV(Ranker):
    """Deals places to runs of tokens by how much each has to show, and fills them by attention.

    The n tokens of a group are cut into P = min(runs, n) runs; the token at place i belongs to run
    floor(i P / n). With the attention a_i, averaged over heads, and v_i, the variance of the cosines
    of token i to the others of its run,

        s_i = a_i + variety v_i mean(a) / mean(v),    weight of a run = mean of its s_i,

    means over the group, so that both terms are of one size. Places are dealt to the runs by their
    weights (Sainte-Laguë); inside a run they go to the tokens with the largest a_i.

    Paper: Zou et al., HoloV, NeurIPS 2025. How ours differs from the released code: what a full run
    cannot use goes to the other runs, where the code leaves zero vectors or the last token in its
    place; the number of runs is a setting and does not follow the budget. So one place more takes
    no token away, and the sets are nested. The variance is brought to the mean of the whole group's
    attention, not of the run's own, which would leave a run's weight to its attention alone. Tokens
    stay in their order.

    Attributes:
        runs: into how many runs of near-equal length a group is cut.
        variety: how much the variance of cosines counts beside attention.
    """

    name = "holov"
    paper = "https://arxiv.org/abs/2510.02912"
    examples = ({}, {"runs": 3, "variety": 1.0})
    known_failures: ClassVar = {
        "ties_by_id": "runs take turns, so of tokens that are alike some of every run come first"
    }

    runs: int = Field(default=16, ge=1)
    variety: float = Field(default=0.09, ge=0, allow_inf_nan=False)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The tokens, and the vision encoder's attention."""
        return frozenset({Evidence.FEATURES, Evidence.VISION_ATTENTION})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Order by dealing place after place."""
        require_finite(tokens.features, tokens.valid, "holov: the features")
        attention = over_heads(tokens.vision_attention, tokens.valid, "holov: the vision attention")
        orders = [
            self._order(tokens.features[row, :n], attention[row, :n], depth)
            for row, n in enumerate(tokens.universe.counts.tolist())
        ]
        return Chain.from_picks(tokens.universe, stacked(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, attention: Tensor, depth: int) -> Tensor:
        n = len(x)
        members = runs(n, min(self.runs, n))
        score = attention.double()
        variance = torch.cat([_variance(x[own]) for own in members]) if n else score
        if n and bool(variance.mean() > 0):
            score = score + self.variety * variance * (score.mean() / variance.mean())
        # In float32: what float64 leaves to rounding is a tie.
        weights = [Fraction(score[own].mean().float().item()) for own in members]
        if not any(weights):
            weights = [Fraction(1)] * len(members)
        heads = [iter((own.start + falling(attention[own])).tolist()) for own in members]
        dealt = [
            next(heads[run]) for run in islice(apportion(weights, [own.stop - own.start for own in members]), depth)
        ]
        return torch.tensor(dealt, dtype=torch.int64, device=x.device)


def _variance(x: Tensor) -> Tensor:
    """Return the variance of each vector's cosines to the others of `x` `[m, d]`, float64 `[m]`."""
    direction = unit(x)
    similar = settle(direction @ direction.T)
    others = max(1, len(x) - 1)
    similar.fill_diagonal_(0)
    mean = similar.sum(dim=1, keepdim=True) / others
    return (similar - mean).square().fill_diagonal_(0).sum(dim=1) / others
