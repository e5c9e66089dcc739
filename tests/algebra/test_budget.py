"""What `keep` means, and how a fraction becomes a count."""

import decimal
import itertools
import math
import time
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tokensieve import Keep
from tokensieve.algebra.budget import apportion, average, count, counts, for_average
from tokensieve.errors import BudgetError
from tokensieve.testing.generators import keeps, shares


@pytest.mark.parametrize(
    ("value", "of_576"),
    [
        (1, 1),
        ("1", 1),
        (1.0, 576),
        ("1.0", 576),
        ("1.", 576),
        ("100%", 576),
        ("100 %", 576),
        ("100.0%", 576),
        ("1/1", 576),
        ("3/3", 576),
        (64, 64),
        ("64", 64),
        (" 64 ", 64),
        (576, 576),
        (577, 576),
        (10**9, 576),
        (0.25, 144),
        ("0.25", 144),
        (".25", 144),
        ("25%", 144),
        ("1/4", 144),
        ("1 / 4", 144),
        (1 / 9, 64),
        ("1/9", 64),
        (Fraction(1, 9), 64),
        # A float is the simplest fraction equal to it, a text what it says.
        (1 / 3, 192),
        (0.3333333333333333, 192),
        ("0.3333333333333333", 191),
        ("33.33%", 191),
        ("33.4%", 192),
        (2 / 3, 384),
        # At least one.
        (0.0001, 1),
        ("0.0001", 1),
        (".1%", 1),
        (1e-9, 1),
        ("1/999999999", 1),
        (5e-324, 1),
    ],
)
def test_what_each_form_means(value, of_576):
    assert count(Keep.of(value), 576) == of_576


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        10**9 + 1,
        True,
        False,
        None,
        0.0,
        -0.5,
        1.5,
        2.0,
        math.nan,
        math.inf,
        -math.inf,
        Fraction(0),
        Fraction(3, 2),
        Fraction(-1, 2),
        "0",
        "-1",
        "+1",
        "010",
        "0x10",
        "1_0",
        "0.0",
        "0.",
        ".",
        "",
        " ",
        "1.5",
        "01.0",
        "00.5",
        "0%",
        "101%",
        "-5%",
        "%",
        "1e-1",
        "1E2",
        "1e-1%",
        "0/3",
        "3/2",
        "1/0",
        "1/03",
        "-1/2",
        "1//2",
        "1/2/3",
        "0.5/1",
        "1/2%",
        "nan",
        "inf",
        "all",
        "Auto",
        "auto 1",
        "64 tokens",
        "1 0",
        "٣",
        "½",
        "0.33333333333333333333",
        "1" * 21,
        " " * 20 + "1",
        "1/2\n3",
        [64],
        {"keep": 64},
        decimal.Decimal("0.5"),
        1 + 0j,
        b"64",
    ],
)
def test_what_is_no_budget_is_refused_with_what_is_one(value):
    with pytest.raises(BudgetError, match=r"keep .*: a budget is a count \(64\), a fraction"):
        Keep.of(value)


def test_a_refused_text_is_quoted_and_shortened():
    with pytest.raises(BudgetError, match=r"^keep '11111111111111111111'\.\.\. is longer than 20 characters"):
        Keep.of("1" * 4000)
    with pytest.raises(BudgetError, match="truth value"):
        Keep.of(True)
    with pytest.raises(ValueError, match="cannot be read"):
        Keep.of("64 tokens")


def test_auto_is_all_unset_and_no_count():
    auto = Keep.of("auto")
    assert auto == Keep()
    assert auto.auto
    assert not Keep.of(1).auto
    assert auto.written() == "auto"
    with pytest.raises(BudgetError, match="own size"):
        count(auto, 5)
    for both in (
        {"count": 3, "fraction": Fraction(1, 2)},
        {"count": 3, "less": 2},
        {"fraction": Fraction(1), "less": 0},
    ):
        with pytest.raises(BudgetError, match="one of"):
            Keep(**both)


@given(st.lists(st.integers(0, 3000), min_size=1), st.integers(0, 4000))
def test_all_but_a_few_takes_at_most_half(ns, r):
    keep = Keep(less=r)
    assert not keep.auto
    found = [count(keep, n) for n in ns]
    assert counts(keep, torch.tensor(ns)).tolist() == found
    for n, k in zip(ns, found, strict=True):
        assert n - k == (r if 2 * r <= n else n // 2)
        # As nested as any budget: one more to go never keeps more.
        assert count(Keep(less=r + 1), n) <= k
    with pytest.raises(BudgetError, match="r -1"):
        Keep(less=-1)


@given(st.integers(0, 3000), st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_float_is_the_fraction_it_was_computed_from(n, p, q):
    p, q = min(p, q), max(p, q)
    assert Keep.of(p / q) == Keep.of(Fraction(p, q))
    assert count(Keep.of(p / q), n) == min(n, max(1, n * p // q))


def test_no_rounding_of_floats_takes_a_token():
    # In binary, 0.29 * 100 is below 29 and 0.1 + 0.2 above 0.3.
    assert count(Keep.of(0.29), 100) == 29
    assert count(Keep.of(0.1 + 0.2), 10) == 3
    assert Keep.of(0.1 + 0.2) != Keep.of(0.3)


@given(st.decimals(min_value="0.0001", max_value=1, places=4), st.integers(0, 3000))
def test_a_decimal_is_exact(x, n):
    assert count(Keep.of(str(x)), n) == min(n, max(1, math.floor(Fraction(x) * n)))
    assert Keep.of(float(x)) == Keep.of(str(x))


@given(keeps(), st.lists(st.integers(0, 600), min_size=1, max_size=5))
def test_counts_is_count_row_by_row_and_at_least_one(keep, ns):
    sizes = counts(keep, torch.tensor(ns))
    assert sizes.dtype == torch.int64
    assert sizes.tolist() == [count(keep, n) for n in ns]
    assert all(min(1, n) <= size <= n for size, n in zip(sizes.tolist(), ns, strict=True))


@given(keeps())
def test_more_tokens_never_keep_fewer(keep):
    sizes = [count(keep, n) for n in range(100)]
    assert sizes == sorted(sizes)


twenty = st.from_regex(r"(0?|1)\.[0-9]{1,18}|[0-9]{0,2}\.[0-9]{1,16}%|[1-9][0-9]{0,8}/[1-9][0-9]{0,9}", fullmatch=True)


@given(st.one_of(keeps(), st.floats(1e-4, 1).map(Keep.of), twenty))
def test_what_is_written_is_read_as_the_same(keep):
    if isinstance(keep, str):
        try:
            keep = Keep.of(keep)
        except BudgetError:
            return
    assert Keep.of(keep.written()) == keep
    assert str(keep) == str(keep.written())


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (64, 64),
        ("0.25", "1/4"),
        (1.0, "100%"),
        ("0.3333333333333333", ".3333333333333333"),
        (".333333333333333333%", ".333333333333333333%"),
    ],
)
def test_how_it_is_written(value, written):
    assert Keep.of(value).written() == written


# Apportionment


parties_of_few = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 6).map(Fraction), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


@given(parties_of_few)
def test_deal_against_brute_force(parties):
    """Sainte-Laguë's seats are those of the least sum of seats² / weight, of all ways to seat a house."""
    weights, capacity = parties
    dealt = list(apportion(weights, capacity))
    assert len(dealt) == sum(capacity)
    for house in range(len(dealt) + 1):
        ways = [w for w in itertools.product(*(range(c + 1) for c in capacity)) if sum(w) == house]
        seats = [dealt[:house].count(party) for party in range(len(weights))]
        best = min(sum(s * s / w for s, w in zip(way, weights, strict=True)) for way in ways)
        assert sum(s * s / w for s, w in zip(seats, weights, strict=True)) == best


@pytest.mark.parametrize(
    ("weights", "capacity", "seats"),
    [
        ([1, 1], [3, 3], [0, 1, 0, 1, 0, 1]),
        ([3, 1], [9, 9], [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1]),
        # The saturated pass on what they cannot use; weight zero is served last.
        ([5, 1, 0], [1, 2, 2], [0, 1, 1, 2, 2]),
        ([0, 0, 1], [1, 1, 1], [2, 0, 1]),
        ([1], [0], []),
        ([], [], []),
    ],
)
def test_deals_by_hand(weights, capacity, seats):
    assert list(apportion([Fraction(w) for w in weights], capacity)) == seats


def test_the_alabama_paradox_does_not_happen():
    # Largest remainder takes a seat from the smallest when the house grows from 10 to 11.
    parties = [Fraction(6), Fraction(6), Fraction(2)]
    dealt = list(apportion(parties, [20] * 3))
    for house in range(len(dealt)):
        assert all(dealt[:house].count(p) <= dealt[: house + 1].count(p) for p in range(3))


@given(shares(), st.integers(0, 20))
def test_every_party_is_near_its_quota_while_nobody_is_saturated(parties, house):
    weights, _ = parties
    dealt = list(apportion(weights, [house] * len(weights)))[:house]
    for party, weight in enumerate(weights):
        # No divisor method keeps strictly to the quota, but one of two parties it does.
        if len(weights) == 2 and all(weights):
            assert abs(dealt.count(party) - house * weight / sum(weights)) < 1


def layer_by_layer(tokens, layers, cuts):
    """The mean, by walking through the layers."""
    now, total = tokens, 0
    for layer in range(layers):
        now = cuts.get(layer, now)
        total += now
    return Fraction(total, layers)


@st.composite
def schedules(draw):
    layers, tokens = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    sites = sorted(draw(st.sets(st.integers(0, layers - 1), max_size=4)))
    left, cuts = tokens, {}
    for site in sites:
        left = draw(st.integers(1, left))
        cuts[site] = left
    return tokens, layers, cuts


@given(schedules(), st.randoms())
def test_an_average_is_the_layers_counted_one_by_one(schedule, random):
    tokens, layers, cuts = schedule
    pairs = list(cuts.items())
    random.shuffle(pairs)
    assert average(tokens, layers, dict(pairs)) == layer_by_layer(tokens, layers, cuts)


@given(schedules(), st.fractions(min_value=0, max_value=45, max_denominator=60))
def test_the_count_for_an_average_is_the_nearest(schedule, wanted):
    tokens, layers, cuts = schedule
    at, _ = cuts.popitem() if cuts else (0, 0)
    entering = list(cuts.values())[-1] if cuts else tokens
    apart = {k: abs(layer_by_layer(tokens, layers, cuts | {at: k}) - wanted) for k in range(1, entering + 1)}
    step = Fraction(layers - at, layers)
    if min(apart.values()) <= step / 2:
        # The smaller of two that are as near; one below the least by half a token would be none at all.
        nearest = min(k for k in apart if apart[k] == min(apart.values()))
        if wanted == layer_by_layer(tokens, layers, cuts | {at: 1}) - step / 2:
            nearest = None
    else:
        nearest = None
    if nearest is None:
        with pytest.raises(BudgetError, match=r"cannot be had at decoder\."):
            for_average(wanted, tokens, layers, at, cuts)
    else:
        assert for_average(wanted, tokens, layers, at, cuts) == nearest


def test_averages_of_published_schedules():
    """Of 576 tokens in 32 layers."""
    # FastV: what stays from layer 2, and from layer 3, for a mean of 192, 128 and 64.
    assert [for_average(mean, 576, 32, at=2) for mean in (192, 128, 64)] == [166, 98, 30]
    assert [for_average(mean, 576, 32, at=3) for mean in (192, 128, 64)] == [152, 82, 11]
    # PyramidDrop's halves at layers 8, 16 and 24.
    assert average(576, 32, {8: 288, 16: 144, 24: 72}) == 270
    # SparseVLM's "192": as its authors count, and from where it acts.
    assert average(576, 32, {2: 300, 6: 200, 16: 110}) == 191
    assert average(576, 32, {3: 300, 7: 200, 16: 110}) == Fraction("202.75")
    # What its last cut would have to leave for 192 of the latter.
    assert for_average(192, 576, 32, at=16, before={3: 300, 7: 200}) == 88
    assert for_average(float(average(576, 32, {2: 64})), 576, 32, at=2) == 64
    assert average(576, 32, {0: 64}) == 64
    assert average(576, 32, {}) == 576


@pytest.mark.parametrize(
    ("wanted", "at", "before", "message"),
    [
        (36, 2, {}, r"a mean of 36 tokens .* decoder.2: 576 tokens enter, .* means from 36.9375 to 576"),
        (577, 2, {}, "cannot be had"),
        (64, 32, {}, "there is no decoder.32 in 32 layers"),
        (64, -1, {}, "there is no decoder.-1"),
        (64, 8, {8: 300}, r"cuts before decoder.8 are at smaller sites, not at \[8\]"),
        (64, 8, {2: 300, 4: 301}, "decoder.4 is entered by 300 tokens, so it cannot keep 301"),
        (64, 8, {2: 0}, "decoder.2 is entered by 576 tokens, so it cannot keep 0"),
    ],
)
def test_averages_that_cannot_be_had(wanted, at, before, message):
    with pytest.raises(BudgetError, match=message):
        for_average(wanted, 576, 32, at, before)


def dealt_by_fractions(weights, capacity):
    """The formula of `apportion`, place by place over all parties, in exact fractions."""
    seats = [0] * len(weights)
    for _ in range(sum(capacity)):
        room = [party for party in range(len(weights)) if seats[party] < capacity[party]]
        best = max(room, key=lambda party: (weights[party] / (2 * seats[party] + 1), -party))
        seats[best] += 1
        yield best


@given(shares(most=9))
def test_integers_deal_as_fractions_do(parties):
    weights, capacity = parties
    assert list(apportion(weights, capacity)) == list(dealt_by_fractions(weights, capacity))
    # Weights of any size, and whole numbers instead of fractions.
    large = [weight.numerator * 10**30 + party for party, weight in enumerate(weights)]
    assert list(apportion(large, capacity)) == list(dealt_by_fractions([Fraction(w) for w in large], capacity))


def test_many_parties_are_dealt_to_in_less_than_quadratic_time():
    weights = [Fraction(1 + 7919 * party % 97, 7) for party in range(2304)]
    started = time.process_time()
    assert len(list(apportion(weights, [1] * 2304))) == 2304
    # Over all parties at every place it were ten seconds.
    assert time.process_time() - started < 1
