"""The law on how a budget is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from tokensieve.algebra.budget import apportion
from tokensieve.testing.checks import require


def house_monotone(
    weights: Sequence[Fraction],
    capacity: Sequence[int],
    dealing: Callable[[Sequence[Fraction], Sequence[int]], Iterator[int]] = apportion,
) -> None:
    """Places are dealt one after the other by Sainte-Laguë, so a place more takes none from anyone.

    At every size each place was given to the largest weight / (2 seats + 1) of those who had room,
    the lowest index on ties, and everyone is filled in the end.
    """
    seats = [0] * len(weights)
    for turn, party in enumerate(dealing(weights, capacity)):
        claims = [w / (2 * s + 1) for w, s in zip(weights, seats, strict=True)]
        room = [p for p in range(len(weights)) if seats[p] < capacity[p]]
        rightful = max(room, key=lambda p: (claims[p], -p), default=None)
        require(party == rightful, f"place {turn} went to party {party}, not to {rightful} ({weights}, {seats})")
        seats[party] += 1
    require(seats == list(capacity), f"places were dealt up to {seats}, but there is room for {list(capacity)}")
