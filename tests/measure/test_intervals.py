"""The interval of a median holds it with 95 %, and no shorter one of order statistics does."""

from fractions import Fraction
from math import comb

import pytest

from tokensieve.measure import Estimate


def chance(n, left_out):
    """The chance that the true median lies between the order statistics `left_out` from either end."""
    return 1 - 2 * sum(Fraction(comb(n, k), 2**n) for k in range(left_out + 1))


@pytest.mark.parametrize("n", range(1, 40))
def test_the_interval_is_the_shortest_that_is_sure(n):
    values = [float((7 * k) % n) if n % 7 else float(n - k) for k in range(n)]
    found, ordered = Estimate.of(values), sorted(values)
    sure = [left for left in range((n + 1) // 2) if chance(n, left) >= Fraction(95, 100)]
    left = max(sure, default=0)
    assert (found.low, found.high, found.count) == (ordered[left], ordered[n - 1 - left], n)
    assert found.low <= found.median <= found.high
    assert (n >= 6) == bool(sure)


def test_an_outlier_does_not_move_it():
    quiet = [10.0, 11, 12, 13, 14, 15, 16, 17, 18]
    assert Estimate.of([*quiet[:-1], 900.0]) == Estimate.of(quiet) == Estimate(14.0, 11, 17, 9)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="no values"):
        Estimate.of([])
