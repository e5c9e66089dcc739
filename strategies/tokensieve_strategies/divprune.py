"""DivPrune: tokens with the largest distances from each other, by greedy max-min diversity."""

from __future__ import annotations

from tokensieve import Chain, Ranker, Tokens
from tokensieve.strategy import Order
from tokensieve_strategies._maths.maxmin import CosineMaxMin
from tokensieve_strategies._maths.vectors import require_finite


class DivPrune(Ranker):
    """Keeps tokens that are far from each other, by greedy max-min diversity.

    With the distance d_ij = 1 - cos(x_i, x_j), the first pick is the token whose nearest other
    token is farthest, and each next one is j = argmax over i not picked of min over picked s of
    d_si. A zero vector is at distance 1 of all others.

    Paper: Alvar et al., DivPrune, CVPR 2025. How ours differs from the released code: it takes the
    minimum over all picks anew at every step, O(k² n), and we keep it, O(k n); where only copies of
    picked tokens are left, it picks a token again and again, and so keeps fewer than asked; batches
    and prompts of any form work, where it expects one row and 35 tokens before the picture.
    """

    name = "divprune"
    paper = "https://arxiv.org/abs/2503.02175"
    complexity = ("O(n² d + n k)", "O(n²), or O(n d) where that is more than 1 GiB")

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        return self.begin(tokens).to(depth)

    def begin(self, tokens: Tokens) -> Order:
        """Return the order of greedy picks before the first one."""
        require_finite(tokens.features, tokens.valid, "divprune: the features")
        return _Picking(self, tokens)


class _Picking(Order):
    def __init__(self, strategy: DivPrune, tokens: Tokens) -> None:
        self._strategy, self._universe = strategy, tokens.universe
        full = all(size == tokens.universe.n for size in tokens.universe.sizes)
        self._picks = CosineMaxMin(tokens.features, tokens.valid, full=full) if tokens.universe.n else None

    def to(self, depth: int) -> Chain:
        universe = self._universe
        if self._picks is None:
            return Chain.from_picks(universe, universe.ids, self._strategy)
        places, picked = self._picks.to(min(depth, universe.n))
        return Chain.from_picks(universe, places, self._strategy, picked=picked)
