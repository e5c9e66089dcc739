"""Composers that count or weigh: at_least, quota, borda, weighted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tokensieve.algebra.budget import simplest
from tokensieve.algebra.chain import Chain, at_least, fuse, interleave
from tokensieve.composers.expression import Composer, Expression
from tokensieve.errors import FormulaError


@dataclass(frozen=True)
class AtLeast(Composer):
    """What at least `j` operands hold; written `at_least(j, a, b, c)`."""

    j: int = 1

    name = "at_least"

    def __post_init__(self) -> None:
        most = len(self.operands)
        # A formula or a caller without type checks can bring anything.
        if type(self.j) is not int or not 1 <= self.j <= most:
            raise FormulaError(f"at_least takes 1 to {most} of {most} operands, not {self.j}")

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Return the j-th smallest level."""
        return at_least(self.j, chains)

    def written(self, name: Callable[[Expression], str]) -> str:
        """Return `at_least(j, a, b)`."""
        return f"at_least({', '.join([str(self.j), *(o.written(name) for o in self.operands)])})"


@dataclass(frozen=True)
class Quota(Composer):
    """Deals places to a and b in the proportion `share : 1 - share`, each token once."""

    share: Fraction = Fraction(1, 2)

    name = "quota"
    arity = (2, 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", _fraction("quota", "share", self.share))
        if not 0 < self.share < 1:
            raise FormulaError(f"quota's share is between 0 and 1, not {self.share}")

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Interleave both orders."""
        return interleave(chains, [self.share, 1 - self.share], self)


@dataclass(frozen=True)
class Borda(Composer):
    """Ranks by the sum of places."""

    name = "borda"
    whole = True

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with equal weights."""
        return fuse(chains, [Fraction(1)] * len(chains), self)


@dataclass(frozen=True)
class Weighted(Composer):
    """Ranks by the weighted sum of places; `weights` holds one number an operand."""

    weights: tuple[Fraction, ...] = ()

    name = "weighted"
    whole = True

    def __post_init__(self) -> None:
        raw: object = self.weights
        given = raw if isinstance(raw, (tuple, list)) else (raw,)
        weights = tuple(_fraction("weighted", "weights", weight) for weight in given)
        if len(weights) != len(self.operands):
            raise FormulaError(f"weighted takes one weight an operand: {len(self.operands)}, not {len(weights)}")
        if any(weight < 0 for weight in weights) or not any(weights):
            raise FormulaError("weights are not negative and not all zero")
        object.__setattr__(self, "weights", weights)

    def combine(self, chains: Sequence[Chain]) -> Chain:
        """Fuse with the weights."""
        return fuse(chains, self.weights, self)


def _fraction(composer: str, parameter: str, value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        raise FormulaError(f"{composer}'s {parameter} is a number, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise FormulaError(f"{composer}'s {parameter} is a finite number, not {value}")
    return simplest(value) if isinstance(value, float) else Fraction(value)
