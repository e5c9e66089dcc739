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
    """Places are given out one by one by Sainte-Laguë, so one place more takes none away from any party.

    Each place goes to the party with the largest weight / (2 seats + 1) among those with room left, on ties to the
    lowest index. In the end, all parties are full.
    """
    seats = [0] * len(weights)
    for turn, party in enumerate(dealing(weights, capacity)):
        claims = [w / (2 * s + 1) for w, s in zip(weights, seats, strict=True)]
        room = [p for p in range(len(weights)) if seats[p] < capacity[p]]
        rightful = max(room, key=lambda p: (claims[p], -p), default=None)
        require(party == rightful, f"place {turn} went to party {party}, not to {rightful} ({weights}, {seats})")
        seats[party] += 1
    require(seats == list(capacity), f"places were dealt up to {seats}, but there is room for {list(capacity)}")
