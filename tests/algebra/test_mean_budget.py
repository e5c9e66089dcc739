"""A budget that groups meet in the mean, against places dealt one by one by fractions."""

import itertools
from fractions import Fraction

import pytest
from effort import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokensieve import Keep
from tokensieve.algebra.budget import count, counts
from tokensieve.algebra.mean_budget import shared
from tokensieve.algebra.universe import Universe
from tokensieve.errors import BudgetError

GROUPS = st.lists(
    st.tuples(st.integers(1, 24), st.one_of(st.integers(0, 6).map(float), st.floats(0, 1e6, allow_subnormal=False))),
    min_size=1,
    max_size=6,
)
MEANS = st.one_of(
    st.integers(1, 30).map(lambda k: Keep(count=k, mean=True)),
    st.fractions(Fraction(1, 40), 1, max_denominator=40).map(lambda part: Keep(fraction=part, mean=True)),
)


def dealt(keep, groups):
    """Return the places of each group, dealt one by one, and whether the last one was dealt between equals."""
    sizes, demands = zip(*groups, strict=True)
    read = [Fraction(f"{demand:.5e}") for demand in demands]
    seats, tied = [1] * len(groups), False
    places = sum(count(keep.each, n) for n in sizes)
    while sum(seats) < places:
        open_groups = [i for i, n in enumerate(sizes) if seats[i] < n]
        wanting = [i for i in open_groups if read[i] > 0]
        claims = {}
        for i in wanting or open_groups:
            size = 1 if keep.count is not None else sizes[i]
            claims[i] = Fraction(size) * (read[i] if wanting else 1) / (2 * seats[i] + 1)
        best = max(claims.values())
        first = [i for i in claims if claims[i] == best]
        tied = len(first) > places - sum(seats)
        seats[first[0]] += 1
        if tied:
            return None
    return seats


@given(groups=GROUPS, keep=MEANS)
@settings(deadline=None, max_examples=examples(400))
def test_places_are_those_of_the_loop_and_sum_to_the_plain_budgets(groups, keep):
    sizes, demands = zip(*groups, strict=True)
    found = shared(keep, sizes, demands)
    assert sum(found) == sum(count(keep.each, n) for n in sizes)
    assert all(1 <= k <= n for k, n in zip(found, sizes, strict=True))
    expected = dealt(keep, groups)
    assert expected is None or found == expected


@given(groups=GROUPS, first=MEANS, second=MEANS)
@settings(deadline=None, max_examples=examples(400))
def test_a_larger_mean_takes_no_place_from_any_group(groups, first, second):
    assume((first.count is None) == (second.count is None))
    sizes, demands = zip(*groups, strict=True)
    smaller, larger = sorted((first, second), key=lambda keep: keep.count or keep.fraction)
    pairs = zip(shared(smaller, sizes, demands), shared(larger, sizes, demands), strict=True)
    assert all(less <= more for less, more in pairs)


@given(groups=GROUPS, keep=MEANS, data=st.data())
@settings(deadline=None, max_examples=examples(300))
def test_more_demand_never_means_fewer_places(groups, keep, data):
    sizes, demands = zip(*groups, strict=True)
    which = data.draw(st.integers(0, len(groups) - 1))
    raised = [demand * 3 + 1 if i == which else demand for i, demand in enumerate(demands)]
    assert shared(keep, sizes, raised)[which] >= shared(keep, sizes, demands)[which]


@given(groups=GROUPS, keep=MEANS, data=st.data())
@settings(deadline=None, max_examples=examples(300))
def test_the_order_of_the_groups_changes_nothing_where_none_tie(groups, keep, data):
    assume(dealt(keep, groups) is not None)
    order = data.draw(st.permutations(range(len(groups))))
    sizes, demands = zip(*groups, strict=True)
    found = shared(keep, [sizes[i] for i in order], [demands[i] for i in order])
    straight = shared(keep, sizes, demands)
    assert found == [straight[i] for i in order]


@given(sizes=st.lists(st.integers(1, 24), min_size=1, max_size=6), keep=MEANS, demand=st.floats(0, 1e6))
@settings(deadline=None, max_examples=examples(300))
def test_equal_demands_are_the_plain_budget_and_fractions_go_by_size(sizes, keep, demand):
    found = shared(keep, sizes, [demand] * len(sizes))
    plain = [count(keep.each, n) for n in sizes]
    if keep.count is not None or len(set(sizes)) == 1:
        assert found == plain
    # Each fraction is rounded down by itself; what all keep together is then shared by size.
    pairs = sorted(zip(sizes, found, strict=True))
    assert all(abs(k - other) <= 1 for (n, k), (m, other) in itertools.pairwise(pairs) if n == m)


@given(n=st.integers(1, 60), keep=MEANS, demand=st.floats(0, 1e6))
@settings(deadline=None, max_examples=examples(100))
def test_one_group_alone_has_the_budget_by_itself(n, keep, demand):
    assert shared(keep, [n], [demand]) == [count(keep.each, n)]


def test_rounding_beyond_six_digits_deals_no_place():
    # The two tie, and the first is served, however the last digits fell.
    for noise in (0.0, 1e-9, -1e-9):
        assert shared(Keep.of("mean 1/2"), [3, 3, 3], [0.5, 0.5 + noise, 0.1]) == [1, 1, 1]
        assert shared(Keep.of("mean 2"), [5, 5, 2], [0.5, 0.5 + noise, 1e-3]) == [3, 2, 1]


@pytest.mark.parametrize("demand", [-1.0, float("nan"), float("inf")])
def test_what_is_no_demand_is_refused(demand):
    with pytest.raises(BudgetError, match="demands are finite numbers and not negative"):
        shared(Keep.of("mean 4"), [9, 9], [1.0, demand])


def test_budgets_that_cannot_be_shared_are_refused():
    for keep in (Keep.of("auto"), Keep(less=3)):
        with pytest.raises(BudgetError, match="is no budget that groups share"):
            shared(keep, [9], [1.0])
        with pytest.raises(BudgetError, match="a mean is of a count or a fraction"):
            Keep(count=keep.count, fraction=keep.fraction, less=keep.less, mean=True)


@pytest.mark.parametrize("written", ["mean 64", "mean 1/9", "mean 100%", "mean 1"])
def test_a_mean_is_written_as_it_is_read_and_is_no_count_of_one_group(written):
    keep = Keep.of(written)
    assert keep.mean
    assert keep.written() == written
    assert Keep.of(keep.written()) == keep
    assert keep.each == Keep.of(written.removeprefix("mean "))
    assert keep != keep.each
    universe = Universe.of_counts([9, 4])
    for asked in (lambda: count(keep, 9), lambda: counts(keep, universe.counts)):
        with pytest.raises(BudgetError, match="is a mean, which several groups meet together"):
            asked()


@pytest.mark.parametrize(
    "wrong", ["mean", "mean auto", "mean 0", "mean mean 3", "mean 3/2", "means 3", "mean " + "1" * 30]
)
def test_what_is_no_mean_is_refused(wrong):
    with pytest.raises(BudgetError):
        Keep.of(wrong)
