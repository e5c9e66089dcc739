"""Random: the control that every method must beat."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve.algebra.universe import draw


class Random(Scorer):
    """Keeps tokens drawn at random.

    score_i = u(seed, sample key, id of i), uniform in [0, 1).

    A control without a paper. The draw is a pure function of the seed, the sample's key and the
    token's id: neither the batch nor what was read before changes it, and k + 1 tokens hold the k.

    Attributes:
        seed: which draw.
    """

    name = "random"
    examples = ({}, {"seed": 7})

    seed: int = 0

    @property
    def needs(self) -> frozenset[Evidence]:
        """Nothing."""
        return frozenset()

    def score(self, tokens: Tokens) -> Tensor:
        """Draw one number a token."""
        return draw(self.seed, tokens.keys, tokens.ids)
