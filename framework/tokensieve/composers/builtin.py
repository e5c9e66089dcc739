"""The composers that every registry has."""

from __future__ import annotations

from tokensieve.composers.expression import (
    Best,
    Complement,
    Composer,
    Difference,
    Intersection,
    SymmetricDifference,
    Then,
    Union,
)
from tokensieve.composers.fusion import AtLeast, Borda, Quota, Weighted
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.streaming import Stream

COMPOSERS: tuple[type[Composer], ...] = (
    Intersection,
    Union,
    Difference,
    SymmetricDifference,
    Complement,
    AtLeast,
    Best,
    Then,
    Quota,
    PerGroup,
    Stream,
    Borda,
    Weighted,
)
