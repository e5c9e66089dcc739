"""HoloV: tokens from all parts of the image, most from the parts with the most content."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve.algebra.budget import apportion
from tokensieve_strategies._maths.order import descending_order, mean_over_heads, split_evenly, stack_orders
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


class HoloV(Ranker):
    """Gives each run of consecutive tokens a part of the budget by its content, and fills it by attention.

    The n tokens of a group are cut into P = min(runs, n) runs; the token at place i belongs to run
    floor(i P / n). With the attention a_i, averaged over heads, and v_i, the variance of the cosines
    of token i to the others of its run,

        s_i = a_i + variety v_i mean(a) / mean(v),    weight of a run = mean of its s_i,

    with means over the group, so that both terms have the same scale. Places are apportioned to the runs by
    their weights (Sainte-Laguë); inside a run they go to the tokens with the largest a_i.

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
    complexity = ("O(n² d / p), p runs", "O(n d)")
    examples = ({}, {"runs": 3, "variety": 1.0})
    known_failures: ClassVar = {
        "ties_by_id": "runs take turns, so of tokens that are alike some of every run come first"
    }

    runs: int = Field(default=16, ge=1)
    variety: float = Field(default=0.09, ge=0, allow_inf_nan=False)

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the vision encoder's attention."""
        return frozenset({Evidence.FEATURES, Evidence.VISION_ATTENTION})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order in which places are apportioned to the runs."""
        require_finite(tokens.features, tokens.valid, "holov: the features")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "holov: the vision attention")
        orders = [
            self._order(tokens.features[row, :n], attention[row, :n], depth)
            for row, n in enumerate(tokens.universe.sizes)
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, attention: Tensor, depth: int) -> Tensor:
        n = len(x)
        if not n:
            return torch.zeros(0, dtype=torch.int64, device=x.device)
        members = split_evenly(n, min(self.runs, n))
        score = attention.double()
        variance = torch.cat([_variance(x[own]) for own in members])
        varied = score + self.variety * variance * (score.mean() / variance.mean())
        score = torch.where(variance.mean() > 0, varied, score)
        # In float32, values that differ by rounding alone are ties.
        means = torch.stack([score[own].mean() for own in members]).float()
        order = torch.cat([own.start + descending_order(attention[own]) for own in members])
        # The host waits once, for both.
        facts = torch.cat([means.double(), order.double()]).tolist()
        weights = [Fraction(weight) for weight in facts[: len(members)]]
        if not any(weights):
            weights = [Fraction(1)] * len(members)
        heads = [iter(facts[len(members) :][own]) for own in members]
        places = [
            int(next(heads[run]))
            for run in islice(apportion(weights, [own.stop - own.start for own in members]), depth)
        ]
        return torch.tensor(places, dtype=torch.int64, device=x.device)


def _variance(x: Tensor) -> Tensor:
    """Return the variance of each vector's cosines to the others of `x` `[m, d]`, float64 `[m]`."""
    direction = normalize(x)
    similar = round_for_ties(direction @ direction.T)
    others = max(1, len(x) - 1)
    similar.fill_diagonal_(0)
    mean = similar.sum(dim=1, keepdim=True) / others
    return (similar - mean).square().fill_diagonal_(0).sum(dim=1) / others
