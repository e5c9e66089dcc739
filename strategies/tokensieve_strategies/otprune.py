"""OTPrune: tokens whose distribution is near that of all tokens, by a bound on the transport between them."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from tokensieve import Chain, Ranker, Tokens
from tokensieve.strategy import Order
from tokensieve_strategies._maths.dpp import GreedyMap
from tokensieve_strategies._maths.order import stack_orders
from tokensieve_strategies._maths.vectors import in_float32, no_autocast, normalize, require_finite, unit_float32


class OTPrune(Ranker):
    """Keeps tokens so that little has to move to make their distribution that of all tokens.

    The 2-Wasserstein distance between two sets of tokens, taken as Gaussians, is a matter of their second
    moments, and a bound on it that greedy picks can maximise is

        log det(I + gamma G_S G_S^T),    G = V V^T,

    where V is the n tokens with every channel scaled to norm 1 over the group, and G_S the rows of G that
    are kept. The order is that of greedy picks, each with the largest gain; the lowest id wins ties.

    Paper: Chen et al., OTPrune, CVPR 2026. How ours differs from the released code: where it picks a token
    again, it starts anew without those that it has, which cannot happen here, as every gain is positive;
    it returns tokens in the order of a hash set; batches and prompts of any form work, where it expects
    one row and 35 tokens before the picture.

    Attributes:
        gamma: how much a token counts that others resemble, beside being one more.
    """

    name = "otprune"
    paper = "https://arxiv.org/abs/2602.20205"
    complexity = ("O(n² (n + d) + n k²)", "O(n (n + d))")
    examples = ({}, {"gamma": 1.0})

    gamma: float = Field(default=0.01, gt=0, le=1e6)

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        return self.begin(tokens).to(depth)

    def begin(self, tokens: Tokens) -> Order:
        """Return the order of greedy picks before the first one."""
        require_finite(tokens.features, tokens.valid, "otprune: the features")
        return _Picking(self, tokens)


class _Picking(Order):
    def __init__(self, strategy: OTPrune, tokens: Tokens) -> None:
        self._strategy, self._tokens = strategy, tokens
        self._rows: list[GreedyMap | None] = []
        for row, n in enumerate(tokens.universe.sizes):
            if not n:
                self._rows.append(None)
                continue
            # Inner products of these vectors are I + gamma G G^T, so a determinant of them is what is maximised.
            rows = _gram(tokens.features[row, :n].detach()) * math.sqrt(strategy.gamma)
            vectors = torch.cat([rows, torch.eye(n, dtype=rows.dtype, device=rows.device)], dim=1).unsqueeze(0)
            length = torch.linalg.vector_norm(vectors, dim=-1)
            self._rows.append(GreedyMap(vectors, length, tokens.valid[row : row + 1, :n], full=True))

    def to(self, depth: int) -> Chain:
        universe = self._tokens.universe
        orders = [
            universe.ids[0, :0] if picking is None else picking.to(min(depth, n)).places[0]
            for picking, n in zip(self._rows, universe.sizes, strict=True)
        ]
        picks = stack_orders(orders, min(depth, universe.n), self._tokens.ids)
        return Chain.from_picks(universe, picks, self._strategy)


def _gram(x: Tensor) -> Tensor:
    """Return the inner products of vectors with every channel scaled to norm 1; in float32 where there are many."""
    if not in_float32(len(x), x.shape[1], x.device):
        channels = normalize(x.T)
        return channels.T @ channels
    with no_autocast(x.device):
        channels = unit_float32(x.T)
        return channels.T @ channels
