"""Composers that count or weigh: at_least, quota, borda, weighted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Self

from pydantic import field_validator, model_validator

from tokensieve.algebra.chain import Chain, at_least, fuse, interleave
from tokensieve.composers.expression import Composer, Expression


class AtLeast(Composer):
    """What at least `j` operands hold; written `at_least(j, a, b, c)`.

    Attributes:
        j: how many operands must hold a token: 1 to all of them.
    """

    j: int = 1

    name = "at_least"
    examples = ({}, {"j": 2})

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        most = len(self.operands)
        if not 1 <= self.j <= most:
            raise ValueError(f"at_least takes 1 to {most} of {most} operands, not {self.j}")
        return self

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Return the j-th smallest level."""
        return at_least(self.j, chains)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return `at_least(j, a, b)`."""
        return f"at_least({', '.join([str(self.j), *(o.written(name) for o in self.operands)])})"


class Quota(Composer):
    """Deals places to a and b in the proportion `share : 1 - share`, each token once.

    Attributes:
        share: which part of the places is for a: above 0, below 1.
    """

    share: Fraction = Fraction(1, 2)

    name = "quota"
    arity = (2, 2)
    examples = ({}, {"share": Fraction(3, 4)})

    @field_validator("share")
    @classmethod
    def _proper(cls, share: Fraction) -> Fraction:
        if not 0 < share < 1:
            raise ValueError(f"quota's share is between 0 and 1, not {share}")
        return share

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Interleave both orders."""
        return interleave(chains, [self.share, 1 - self.share], self)


class Borda(Composer):
    """Ranks by the sum of places."""

    name = "borda"
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with equal weights."""
        return fuse(chains, [Fraction(1)] * len(chains), self)


class Weighted(Composer):
    """Ranks by the weighted sum of places.

    Attributes:
        weights: one number an operand, none negative, and not all zero.
    """

    weights: tuple[Fraction, ...] = ()

    name = "weighted"
    whole = True
    examples = ({"weights": (2, 1)}, {"weights": (Fraction(1, 2), 0, 1)})

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.weights) != len(self.operands):
            raise ValueError(f"weighted takes one weight an operand: {len(self.operands)}, not {len(self.weights)}")
        if any(weight < 0 for weight in self.weights) or not any(self.weights):
            raise ValueError("weights are not negative and not all zero")
        unit = math.lcm(*(weight.denominator for weight in self.weights))
        if sum(self.weights) * unit >= 2**40:
            raise ValueError(
                "the weights are too finely graded to be added exactly for a million tokens; use simpler ones"
            )
        return self

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with the weights."""
        return fuse(chains, self.weights, self)
