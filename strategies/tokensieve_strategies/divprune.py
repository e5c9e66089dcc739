"""DivPrune: tokens with the largest distances from each other, by greedy max-min diversity."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Chain, Ranker, Tokens
from tokensieve_strategies._maths.maxmin import max_min, most_isolated
from tokensieve_strategies._maths.vectors import normalize, require_finite, round_for_ties


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

    def rank(self, tokens: Tokens, depth: int) -> Chain:
        """Return the tokens in the order of greedy picks."""
        require_finite(tokens.features, tokens.valid, "divprune: the features")
        universe = tokens.universe
        if not universe.n:
            return Chain.from_picks(universe, universe.ids, self)
        x = normalize(tokens.features.masked_fill(~tokens.valid.unsqueeze(-1), 0))
        # The whole distance matrix if it is no larger than the features, else single rows on demand.
        whole = round_for_ties(1 - x @ x.mT) if universe.n <= x.shape[2] else None

        def distance(places: Tensor) -> Tensor:
            source = x if whole is None else whole
            rows = source.gather(1, places.unsqueeze(-1).expand(-1, -1, source.shape[2]))
            return round_for_ties(1 - rows @ x.mT) if whole is None else rows

        picks = max_min(distance, tokens.valid, most_isolated(distance, tokens.valid), min(depth, universe.n))
        return Chain.from_picks(universe, picks, self)
