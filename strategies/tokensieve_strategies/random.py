"""Random: the control that every method must beat."""

from __future__ import annotations

from torch import Tensor

from tokensieve import Evidence, Scorer, Tokens
from tokensieve.algebra.universe import draw


class Random(Scorer):
    """Keeps tokens drawn at random.

    score_i = u(seed, sample key, id of i), uniform in [0, 1).

    A control without a paper. The number is a pure function of the seed, the sample's key and the token's id. So it
    does not depend on the batch or on earlier draws, and the set of k + 1 tokens contains the set of k.

    Attributes:
        seed: the random seed.
    """

    name = "random"
    complexity = ("O(n)", "O(n)")
    examples = ({}, {"seed": 7})

    seed: int = 0

    @property
    def needs(self) -> frozenset[Evidence]:
        """No evidence."""
        return frozenset()

    def score(self, tokens: Tokens) -> Tensor:
        """Return one random number for each token."""
        return draw(self.seed, tokens.keys, tokens.ids)
