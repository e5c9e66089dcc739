"""The median of repeats, with an interval that assumes nothing about how times are distributed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The median of a figure over repeats.

    Attributes:
        median: of the repeats.
        low: the lower end of the interval of the median.
        high: its upper end.
        count: the number of repeats.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the median and the shortest interval of order statistics that holds it with 95 % (by the sign test).

        With fewer than six values no such interval is that sure; it is then from the least value to the largest.

        Raises:
            ValueError: if there are no values.
        """
        if not values:
            raise ValueError("the median of no values is not known")
        ordered, n = sorted(values), len(values)
        left_out, tail = 0, 0.5**n
        # `left_out` values may be left out on either side while the chance of a miss stays below 2.5 % there.
        while left_out < (n - 1) // 2 and tail + math.comb(n, left_out + 1) * 0.5**n <= 0.025:
            left_out += 1
            tail += math.comb(n, left_out) * 0.5**n
        return cls(statistics.median(ordered), ordered[left_out], ordered[n - 1 - left_out], n)
