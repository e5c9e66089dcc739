"""Sharing: a budget that groups meet in the mean, dealt between them by what each needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice

from tokensieve.algebra.budget import Keep, apportion, count
from tokensieve.errors import BudgetError

DIGITS = 6
"""The significant digits to which demands are read, so that no rounding of a device deals a place."""


def shared(keep: Keep, sizes: Sequence[int], demands: Sequence[float]) -> list[int]:
    """Return how many tokens of each group stay where a budget is met in the mean over all of them.

    Together they keep exactly what they would keep if each had the budget by itself. Every group has one place; the
    others are dealt by Sainte-Laguë, none beyond a group's size. A group's weight is its demand where the budget is a
    count, and its demand times its size where it is a fraction. So a larger budget of the same kind takes no place from
    any group; groups of one size and one demand have one budget, up to one place; and one group alone has the budget.
    Groups without any demand have the places that all others leave, and share by size alone if no group has a demand.
    The first of the groups that tie is served first.

    Args:
        keep: the budget, a count or a fraction.
        sizes: how many tokens each group has, at least one.
        demands: what each needs in comparison with the others, finite and not negative; read to six digits.

    Raises:
        BudgetError: if a demand is negative or not finite, or the budget is no number of tokens.
    """
    if keep.auto or keep.less is not None:
        raise BudgetError(f"keep {keep} is no budget that groups share; a mean is of a count or a fraction")
    if any(not math.isfinite(demand) or demand < 0 for demand in demands):
        raise BudgetError(f"demands are finite numbers and not negative; these are {[float(one) for one in demands]}")
    places = sum(count(keep.each, n) for n in sizes)
    claims = [Fraction(1) if keep.count is not None else Fraction(n) for n in sizes]
    wanted = [Fraction(f"{demand:.{DIGITS - 1}e}") for demand in demands]
    seats = [1] * len(sizes)
    for party in islice(_turns(claims, wanted, sizes), places - len(sizes)):
        seats[party] += 1
    return seats


def _turns(claims: Sequence[Fraction], demands: Sequence[Fraction], sizes: Sequence[int]) -> Iterator[int]:
    """Yield whose place the next one is, after the first of each; those without a demand come last."""
    some = [n if demand else 0 for n, demand in zip(sizes, demands, strict=True)]
    none = [0 if demand else n for n, demand in zip(sizes, demands, strict=True)]
    weights = [claim * demand for claim, demand in zip(claims, demands, strict=True)]
    begun: set[int] = set()
    for party in chain(apportion(weights, some), apportion(claims, none)):
        if party in begun:
            yield party
        begun.add(party)
