"""VidCom2: tokens unlike their frame and their video, most from the frames that are most unlike the video."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Evidence, Ranker, Tokens
from tokensieve_strategies._maths.order import among_first, descending_order, stack_orders
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""The bandwidths of the Gaussian kernels."""


class VidCom2(Ranker):
    """Gives each frame a part of the budget by how unlike the video it is, and keeps its least typical tokens.

    A token's likeness to the mean g of some tokens is, with the vectors on the half of the channels
    that vary least over the video, scaled to norm 1,

        sim(x, g) = sum over a in 1/8, 1/4, 1/2, 1, 2 of exp(-|x - g|² / (2 a)).

    With v_i, the likeness to the mean of the video, and f_i, that to the mean of the own frame, frame t
    of T with m_t of the n tokens gets of k places

        k_t = m_t k / n (1 + s_t - 1/T),    s = softmax over t of (-mean of v_i in t) / temperature,

    rounded, halves to even, at least one and at most m_t. The k_t tokens of a frame with the smallest
    v_i + f_i are in. Where these are not k, the tokens of all frames are by v_i + f_i: the largest go, or the
    smallest of the rest come in. Another k has other shares, so the method knows its budget.

    Paper: Liu et al., VidCom2, EMNLP 2025. Its likeness is the cosine of the whole vectors, which
    `likeness: cosine` gives; kernels, half of the channels and the exact count are those of the code in
    vLLM, which is from the authors'. How ours differs from that code: the retention ratio is k / n,
    where it has 1 - q and rounds n (1 - q) down to k; frames may have different numbers of tokens; equal
    likenesses are told apart by place. The paper rounds each frame's share up, beyond the budget.

    Attributes:
        temperature: how sharply places go to the frames most unlike the video.
        likeness: `gaussian`, the kernels of the code, or `cosine`, as in the paper.
    """

    name = "vidcom2"
    nested = False
    paper = "https://arxiv.org/abs/2505.14454"
    complexity = ("O(n d)", "O(n d)")
    examples = ({}, {"likeness": "cosine"}, {"temperature": 1.0})

    temperature: float = Field(default=0.01, ge=1e-4, allow_inf_nan=False)
    likeness: Literal["gaussian", "cosine"] = "gaussian"

    @property
    def needs(self) -> frozenset[Evidence]:
        """The features of the tokens, and the grid."""
        return frozenset({Evidence.FEATURES, Evidence.GRID})

    @staticmethod
    def reserved(frames: int, tokens_per_frame: int, q: float) -> int:
        """Return how many tokens vLLM reserves for a video at the pruning rate `q`: one of each frame or more."""
        total = frames * tokens_per_frame
        return max(frames, min(int(total * (1.0 - q)), total))

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the set of `depth` tokens."""
        require_finite(tokens.features, tokens.valid, "vidcom2: the features")
        orders = [
            self._order(tokens.features[row, :n], tokens.grid[row, :n, :3], min(depth, n))
            for row, n in enumerate(tokens.universe.sizes)
        ]
        return Chain.from_picks(tokens.universe, stack_orders(orders, depth, tokens.ids), self)

    def _order(self, x: Tensor, pictures: Tensor, k: int) -> Tensor:
        n = len(x)
        if not n:
            return torch.zeros(0, dtype=torch.int64, device=x.device)
        frame, sizes = pictures.unique(dim=0, return_inverse=True, return_counts=True)[1:]
        vectors = self._prepared(x)
        of_video = self._alike(vectors, vectors.mean(dim=0))
        of_frame = self._alike(vectors, _means(vectors, frame, len(sizes))[frame])
        unlike = -round_for_ties(_means(of_video.unsqueeze(1), frame, len(sizes)).squeeze(1))
        share = ((unlike - unlike.max()) / self.temperature).softmax(dim=0)
        places = round_for_ties(sizes * k / n * (1 + share - 1 / len(sizes)))
        places = torch.minimum(places.round().long().clamp(min=1), sizes)
        order = descending_order(-round_for_ties(of_video + of_frame))
        inside = among_first(order, frame, places)
        return torch.cat([order[inside[order]], order[~inside[order]]])

    def _prepared(self, x: Tensor) -> Tensor:
        """Return the vectors that are compared, float64 `[n, channels]`."""
        wide = x.double()
        if self.likeness == "cosine":
            return wide
        variance = wide.var(dim=0, correction=0)
        # In float32 and in units of the largest, variances that differ by rounding alone are ties.
        scaled = (variance / variance.max().clamp(min=1e-300)).float()
        steady = descending_order(-scaled)[: max(1, x.shape[1] // 2)]
        return normalize(wide[:, steady])

    def _alike(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return how alike each vector and its mean are, float64 `[n]`."""
        if self.likeness == "cosine":
            return (normalize(x) * normalize(mean)).sum(dim=-1)
        distance = (x - mean).square().sum(dim=-1)
        return torch.stack([(-distance / (2 * width)).exp() for width in _WIDTHS]).sum(dim=0)


def _means(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the mean of each group's vectors, float64 `[groups, d]`."""
    total = x.new_zeros(groups, x.shape[1]).index_add_(0, group, x)
    return total / group.bincount(minlength=groups).unsqueeze(1)
