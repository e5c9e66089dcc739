"""Composers: strategies joined by set algebra, read as chains, and cut to a budget.

This is what the author of a composer imports: `Composer` to subclass, and the operations on chains that most
composers are made of.
"""

from tokensieve.algebra.chain import at_least, fuse, interleave
from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.expression import (
    Best,
    Complement,
    Composer,
    Difference,
    Expression,
    Intersection,
    Reading,
    SymmetricDifference,
    Then,
    Union,
)
from tokensieve.composers.fusion import AtLeast, Borda, Quota, Weighted
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.selection import Selection, select
from tokensieve.composers.streaming import Stream

__all__ = [
    "COMPOSERS",
    "AtLeast",
    "Best",
    "Borda",
    "Complement",
    "Composer",
    "Difference",
    "Expression",
    "Intersection",
    "PerGroup",
    "Quota",
    "Reading",
    "Selection",
    "Stream",
    "SymmetricDifference",
    "Then",
    "Union",
    "Weighted",
    "at_least",
    "fuse",
    "interleave",
    "select",
]
