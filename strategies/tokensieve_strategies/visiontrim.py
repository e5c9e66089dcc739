"""VisionTrim: attended tokens in even surroundings, and of the rest what the question asks for, merged by its words."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tokensieve import Chain, Evidence, Merger, Reduction, Tokens
from tokensieve.algebra.budget import simplest
from tokensieve_strategies._maths.grid import neighbours
from tokensieve_strategies._maths.homes import Homes, chain_of, reduction_of
from tokensieve_strategies._maths.order import descending_order, mean_over_heads
from tokensieve_strategies._maths.relevance import missing_question_notes, require_query
from tokensieve_strategies._maths.vectors import require_finite, round_for_ties


class VisionTrim(Merger):
    """Keeps dominant tokens, and merges the rest into complements by the words of the question.

    Of k places, d = ceil(`share` k) go to the tokens with the largest a g_i + (1 - a) l_i. g is the softmax over the
    n tokens of the attention, averaged over heads. l is the softmax of the mean, over the tokens j around i in a
    square of `window` places a side, of

        -(|f_i - f_j| / (`feature` s_f))² - `position` (|p_i - p_j| / (`feature` s_p))²,

    with the vision encoder's features f, places p on the grid, and s the standard deviations of all such distances.
    a = var(l) / (var(g) + var(l)). Of the others, with vectors v and words t in one space of width e, the k - d with
    the largest mean over words of softmax_i(t v_i / sqrt(e)) are complements. Every other token joins the complement c
    with the largest product of softmax_t(v t / sqrt(e)) and softmax_t(c t / sqrt(e)), and a complement becomes the
    mean of itself and of the mean of those, weighted by that product. Without a question all places are dominant.

    Paper: Yu et al., VisionTrim, ICLR 2026; its code was not read. How ours differs: the paper adds a complement and
    what joined it, a vector about twice as long; complements are found once, where the paper repeats it, in words
    that do not say how; over which tokens s is taken, and over what the last softmax goes, is our reading. Weights and
    window are not in what we could read, and are ours. Its second half, inside the language model, is no part of it.

    Attributes:
        share: which part of the places is for dominant tokens.
        window: how wide the surroundings of a token are, an odd number of places.
        feature: how many standard deviations of distance count one.
        position: how much distances on the grid count beside those of features.
    """

    name = "visiontrim"
    nested = False
    paper = "https://arxiv.org/abs/2601.22674"
    complexity = ("O(n (w² d + k m + m e)), m words, w² places around", "O(n (d + m + k))")
    examples = ({}, {"share": 0.5, "window": 5, "feature": 2.0, "position": 1.0})
    known_failures: ClassVar = {
        "mass_conserved": "without a question, or a place for it, all that is not dominant is dropped"
    }

    share: float = Field(default=0.75, gt=0, le=1)
    window: int = Field(default=3, ge=3)
    feature: float = Field(default=0.3, gt=0)
    position: float = Field(default=0.01, ge=0)

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if not value % 2:
            raise ValueError(f"window is an odd number of places, with the token in the middle, not {value}")
        return value

    @property
    def needs(self) -> frozenset[Evidence]:
        """The vision encoder's attention and features, the grid, and the question."""
        return frozenset({Evidence.VISION_ATTENTION, Evidence.VISION_FEATURES, Evidence.GRID, Evidence.QUERY})

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens, with a note for each row without a question."""
        importance = self._importance(tokens)
        notes = missing_question_notes(tokens.query, tokens.valid, "visiontrim")
        return chain_of(self, tokens, depth, lambda row, k: self._merged(tokens, importance[row], row, k), notes)

    def assign(self, tokens: Tokens, keep: Tensor) -> Reduction:
        """Merge the rest into the complements."""
        importance = self._importance(tokens)
        return reduction_of(tokens, keep, lambda row, k: self._merged(tokens, importance[row], row, k))

    def _importance(self, tokens: Tokens) -> list[Tensor]:
        """Return how dominant the tokens of each row are, float64 `[n]`."""
        require_finite(tokens.vision_features, tokens.valid, "visiontrim: the vision features")
        require_query(tokens.query, tokens.valid, "visiontrim")
        attention = mean_over_heads(tokens.vision_attention, tokens.valid, "visiontrim: the vision attention")
        found = []
        for row, n in enumerate(tokens.universe.sizes):
            overall = attention[row, :n].double().softmax(dim=0)
            around = self._evenness(tokens.vision_features[row, :n].detach(), tokens.grid[row, :n]).softmax(dim=0)
            variance = [part.var(correction=0) if n else part.sum() for part in (overall, around)]
            both = variance[0] + variance[1]
            of_all = torch.where(both > 0, variance[1] / both.where(both > 0, 1.0), 0.5)
            # Times n, so that what differs by rounding alone is a tie whatever n is.
            found.append(round_for_ties(n * (of_all * overall + (1 - of_all) * around)))
        return found

    def _evenness(self, f: Tensor, grid: Tensor) -> Tensor:
        """Return the mean kernel of each token and those around it, float64 `[n]`; the least where there are none."""
        reach = range(-(self.window // 2), self.window // 2 + 1)
        steps = [step for step in itertools.product(reach, reach) if step != (0, 0)]
        at = neighbours(grid, steps)
        there = at >= 0
        columns = [(f - f[own.clamp(min=0)]).double().square().sum(dim=1).sqrt() for own in at.T]
        apart = torch.stack(columns, dim=1)
        steps_apart = torch.tensor([math.hypot(*step) for step in steps], dtype=torch.float64, device=f.device)
        kernel = torch.zeros_like(apart)
        for distance, weight in ((apart, 1.0), (steps_apart.expand_as(apart), self.position)):
            spread = distance[there].std(correction=0) if bool(there.any()) else distance.new_zeros(())
            if spread > 0:
                kernel -= weight * (distance / (self.feature * spread)).square()
        number = there.sum(dim=1)
        mean = kernel.where(there, 0.0).sum(dim=1) / number.clamp(min=1)
        return mean if not bool(there.any()) else mean.where(number > 0, mean[number > 0].min())

    def _merged(self, tokens: Tokens, importance: Tensor, row: int, k: int) -> Homes:
        """Return the homes of a row's tokens in k places."""
        n, query = tokens.universe.sizes[row], tokens.query
        words = query.text[row][query.mask[row]].double()
        order = descending_order(importance)
        few = min(k, math.ceil(simplest(self.share) * k)) if len(words) else k
        home = torch.full((n,), -1, device=order.device)
        weight = torch.zeros(n, dtype=torch.float64, device=order.device)
        home[order[:few]], weight[order[:few]] = order[:few], 1.0
        if few == k:
            return Homes(home, weight)
        left = (home < 0).nonzero().flatten()
        match = query.sign * query.patch[row, left].double() @ words.T / math.sqrt(words.shape[1])
        asked = round_for_ties(len(left) * match.softmax(dim=0).mean(dim=1))
        complements = descending_order(asked)[: k - few].sort().values
        spoken = match.softmax(dim=1)
        product = spoken @ spoken[complements].T
        joins = complements[round_for_ties(product).argmax(dim=1)].index_copy(0, complements, complements)
        share = product.amax(dim=1).index_fill(0, complements, 0.0)
        total = torch.zeros_like(share).index_add(0, joins, share)
        part = 0.5 * share / total[joins].clamp(min=1e-300)
        home[left] = left[joins]
        weight[left] = part.index_copy(0, complements, torch.where(total[complements] > 0, 0.5, 1.0).double())
        return Homes(home, weight)
