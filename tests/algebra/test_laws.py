"""Every law of `tokensieve.testing.laws`, over random expressions, batches and budgets."""

import importlib
import operator
import pkgutil
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, Phase, given, settings

from tokensieve import Chain, Keep, Reduction, Tokens, Universe, select
from tokensieve.algebra.budget import counts
from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.expression import Best, Intersection, Then, Union
from tokensieve.composers.fusion import Quota
from tokensieve.composers.groups import PerGroup
from tokensieve.errors import AlgebraError, FormulaError, ScoreError
from tokensieve.evidence import GRID_COLUMNS, Evidence, Query, Text
from tokensieve.testing import generators, laws
from tokensieve.testing.generators import (
    AtLeastFeature,
    ByFeature,
    PickedByFeature,
    batches,
    expressions,
    keeps,
    lattices,
    rankings,
    universes,
)
from tokensieve.testing.laws import lattice

small = batches(max_rows=3, max_n=10)
leaf = expressions(max_leaves=2)
budgets = st.integers(0, 12)
joins = st.sampled_from([operator.and_, operator.or_])


# The cut


@given(batches(), expressions(), budgets)
def test_exact(tokens, expression, k):
    for size in (0, k, tokens.universe.n, tokens.universe.n + 1):
        laws.exact(expression, tokens, size)


@given(small, expressions(max_leaves=3), expressions(max_leaves=3), budgets)
def test_exact_with_an_explicit_by(tokens, expression, by, k):
    laws.exact(expression, tokens, k, by)


def test_random_expressions_and_budgets_are_exact():
    """A thousand of them at night."""
    seen, most = 0, examples(1_000)

    @settings(max_examples=most, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    @given(batches(), expressions(max_leaves=8), keeps())
    def check(tokens, expression, keep):
        nonlocal seen
        mask = select(expression, tokens, keep).mask
        assert not (mask & ~tokens.valid).any()
        assert mask.sum(dim=1).tolist() == counts(keep, tokens.universe.counts).tolist()
        seen += 1

    check()
    assert seen >= most


@pytest.mark.parametrize("n", [0, 1])
@given(expression=expressions(), data=st.data())
def test_groups_of_no_token_and_of_one(n, expression, data):
    universe = st.builds(lambda rows: Universe.full(rows, n), st.integers(0, 3))
    tokens = data.draw(batches(of=universe))
    for k in (0, n, n + 1):
        laws.exact(expression, tokens, k)
    laws.nested(expression, tokens)


@given(small, expressions())
def test_nested(tokens, expression):
    laws.nested(expression, tokens)


@given(small, expressions())
def test_set_by_set(tokens, expression):
    laws.set_by_set(expression, tokens)


@given(small, leaf, leaf, budgets, joins)
def test_symmetric_cut(tokens, a, b, k, join):
    laws.symmetric_cut(a, b, tokens, k, join)


@given(small, expressions(max_leaves=3), expressions(max_leaves=3), st.integers(1, 12))
def test_collapse(tokens, a, b, k):
    laws.collapse(a, b, tokens, k)


# The lattice


@given(small, leaf, leaf, joins)
def test_commutative(tokens, a, b, join):
    laws.commutative(a, b, tokens, join)


@given(small, leaf, leaf, leaf, joins)
def test_associative(tokens, a, b, c, join):
    laws.associative(a, b, c, tokens, join)


@given(small, leaf, joins)
def test_idempotent(tokens, a, join):
    laws.idempotent(a, tokens, join)


@given(small, leaf, leaf)
def test_absorbing(tokens, a, b):
    laws.absorbing(a, b, tokens)


@given(small, leaf, leaf, leaf)
def test_distributive(tokens, a, b, c):
    laws.distributive(a, b, c, tokens)


@settings(max_examples=examples(50))
@given(small, leaf, leaf)
def test_de_morgan(tokens, a, b):
    laws.de_morgan(a, b, tokens)


@given(small, expressions(max_leaves=3))
def test_involution(tokens, a):
    laws.involution(a, tokens)


@given(small, leaf, leaf)
def test_kleene(tokens, a, b):
    laws.kleene(a, b, tokens)


@given(small, expressions(max_leaves=3), keeps(), st.builds(AtLeastFeature, column=st.integers(0, 2)))
def test_boolean(tokens, a, m, chosen):
    for fixed in (Best.of(a, m=m), chosen, chosen ^ Best.of(a, m=m)):
        laws.boolean(fixed, tokens)


@given(small, st.lists(leaf, min_size=2, max_size=4))
def test_at_least_one_is_the_union_and_all_the_intersection(tokens, operands):
    at_least = next(c for c in COMPOSERS if c.name == "at_least")
    lattice._equal(tokens, at_least.of(*operands, j=1), Union.of(*operands))
    lattice._equal(tokens, at_least.of(*operands, j=len(operands)), Intersection.of(*operands))


# What does not matter


@given(small, expressions(), budgets, st.integers(0, 2**32))
def test_order_free(tokens, expression, k, seed):
    draw = torch.rand(tokens.valid.shape, generator=torch.Generator().manual_seed(seed))
    laws.order_free(expression, tokens, k, draw.argsort(dim=1))


@given(small, expressions(), budgets, st.integers(0, 4))
def test_padding_free(tokens, expression, k, extra):
    laws.padding_free(expression, tokens, k, extra)


@given(small, expressions(), budgets)
def test_batch_free(tokens, expression, k):
    laws.batch_free(expression, tokens, k)


@settings(max_examples=examples(60))
@given(small, expressions(), budgets)
def test_depth_free(tokens, expression, k):
    laws.depth_free(expression, tokens, k)


@given(small, expressions(), budgets)
def test_deterministic(tokens, expression, k):
    laws.deterministic(expression, tokens, k)


@given(batches(), lattices(), st.integers(0, 25))
def test_shallow(tokens, expression, k):
    laws.shallow(expression, tokens, k)


def asked_of(expression, tokens, k, by=None):
    """The depths to which each strategy was read."""
    depths = {}

    def counting(strategy, reading, depth):
        depths.setdefault(strategy, []).append(depth)
        return strategy.read(reading, depth)

    select(expression, tokens, Keep.of(k), by, counting)
    return depths


A, B, C = ByFeature(column=0), ByFeature(column=1), ByFeature(column=2)
PA, PB, PC = PickedByFeature(column=0), PickedByFeature(column=1), PickedByFeature(column=2)


def opposed(n=64):
    """Tokens that the first feature ranks 0, 1, 2, ... and the second the other way round."""
    up = torch.arange(n).double()
    grid = (torch.arange(n) // (n // 4)).reshape(1, n, 1).expand(1, n, len(GRID_COLUMNS))
    return Tokens.of(torch.stack([-up, up, -(up % 8)], dim=1).unsqueeze(0), grid=grid.contiguous())


def test_how_deep_strategies_are_read():
    tokens = opposed()
    # A union of k is settled at once; opposed lists share k tokens at depth (64 + k) / 2 only.
    assert asked_of(PA | PB, tokens, 8) == {PA: [8], PB: [8]}
    assert asked_of(PA & PB, tokens, 8) == {PA: [8, 16, 32, 64], PB: [8, 16, 32, 64]}
    assert asked_of(PA & PC, tokens, 2)[PA][-1] <= 32
    # What needs all places asks for them at once.
    for whole in (~PA, PA - PB, PA ^ PB):
        assert {d for depths in asked_of(whole, tokens, 8).values() for d in depths} == {64}
    assert asked_of(PA, tokens, 8, by=PB) == {PA: [8], PB: [64]}
    # A fixed set is read to its size, and no deeper unless it must be filled.
    assert asked_of(PA[20], tokens, 8) == {PA: [20]}
    assert asked_of(PA[4], tokens, 8) == {PA: [8]}
    assert asked_of(PA[16] >> PB, tokens, 8) == {PA: [16], PB: [8]}
    # Under [m] a leaf counts its place in its own order, so ties between a's best and b's ask for all.
    assert asked_of((PA | PB)[3], tokens, 2)[PA][-1] == 64
    assert asked_of(Quota.of(PA, PB), tokens, 8) == {PA: [8], PB: [8]}
    assert asked_of(PerGroup.of(PA, by="image"), tokens, 8) == {PA: [8]}


def test_a_fixed_set_read_once_in_part_is_read_again_where_all_of_it_is_needed():
    tokens = opposed(12)
    assert select(PA[2] & ~PA[2], tokens, Keep.of(5)).mask.sum() == 5
    assert select(PA[3] | PB[3], tokens, Keep.of(10)).mask.sum() == 10


def test_leaves_that_become_one_by_being_fixed_count_once():
    # A ranks 0, 1, 2 and B ranks 1, 2, 0. Inside [2], A[3] and A are one leaf, so that the sums of
    # places are 0 + 2, 1 + 0, 2 + 1, and not 0 + 0 + 2, 1 + 1 + 0, 2 + 2 + 1.
    tokens = Tokens.of(torch.tensor([[[3.0, 1], [2, 3], [1, 2]]]))
    assert select(((A[3] & B[3]) | A)[2], tokens, Keep.of(1)).mask.tolist() == [[False, True, False]]


# Scores


@given(universes(max_n=10), st.integers(0, 2**32))
def test_ties_by_id(universe, seed):
    draw = torch.randint(-2, 3, universe.valid.shape, generator=torch.Generator().manual_seed(seed))
    for dtype in (torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        laws.ties_by_id(universe, draw.to(dtype))
    laws.ties_by_id(universe, -draw.double())
    laws.ties_by_id(universe, draw > 0)


@settings(max_examples=examples(30))
@given(universes(max_rows=2, max_n=6))
def test_nan_raises(universe):
    laws.nan_raises(universe, universe.ids.double())


@given(batches(max_n=10))
def test_infinities_rank(tokens):
    laws.infinities_rank(tokens.universe, tokens.features[..., 0])


@given(universes(), st.integers(0, 2**32))
def test_dtype_free(universe, seed):
    scores = torch.rand(universe.valid.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        laws.dtype_free(universe, scores, dtype)
        laws.dtype_free(universe, 0.1 + scores / 1000, dtype)


def test_scores_and_picks_that_are_none_are_refused():
    universe = Universe.full(2, 3)
    with pytest.raises(ScoreError, match=r"shape \[2, 4\]"):
        Chain.from_scores(universe, torch.zeros(2, 4), "bad")
    with pytest.raises(ScoreError, match="NaN"):
        Chain.from_scores(universe, torch.full((2, 3), torch.nan), "bad")
    with pytest.raises(ScoreError, match="each pick must name another token"):
        Chain.from_picks(universe, torch.tensor([[0, 0], [0, 1]]), "bad")
    with pytest.raises(ScoreError, match="expected bool"):
        Chain.from_set(universe, torch.zeros(2, 3), "bad")


def test_what_a_chain_cannot_give_is_refused():
    tokens = opposed(8)
    shallow = PA.rank(tokens, 3)
    assert shallow.settled(3)
    assert not shallow.settled(4)
    with pytest.raises(AlgebraError, match=r"read to depth 3.*cut to \[4\] tokens; read it deeper"):
        shallow.cut(4)
    with pytest.raises(AlgebraError, match="needs all places; this chain was read to depth 3"):
        shallow.complement()
    with pytest.raises(AlgebraError, match="not -1"):
        shallow.cut(-1)
    with pytest.raises(AlgebraError, match="same tokens"):
        shallow.cut(1, by=Chain.from_scores(Universe.full(1, 9), torch.zeros(1, 9), "b"))
    with pytest.raises(AlgebraError, match=r"fixed set.* ranks tokens"):
        select(A, tokens, Keep.of("auto"))
    assert select(AtLeastFeature(column=1, floor=6), tokens, Keep.of("auto")).mask.sum() == 2
    with pytest.raises(FormulaError, match=r"needs a size, such as a\[128\] >> b"):
        Then.of(A, B)


# Several images in a row


def test_groups_are_the_tokens_that_agree_on_all_that_is_around_them():
    # Two images of two tiles each; the first image has all the large features.
    grid = torch.zeros(1, 8, 5, dtype=torch.int64)
    grid[0, :, 0] = torch.arange(8) // 4
    grid[0, :, 1] = torch.arange(8) // 2 % 2
    tokens = Tokens.of(torch.arange(8.0, 0, -1).reshape(1, 8, 1), grid=grid)
    by_tile = select(PerGroup.of(A, by="tile"), tokens, Keep.of(4)).mask
    assert by_tile.tolist() == [[True, False] * 4]
    by_image = select(PerGroup.of(A, by="image"), tokens, Keep.of(4)).mask
    assert by_image.tolist() == [[True, True, False, False] * 2]


@given(batches(), rankings(), st.integers(1, 26), st.sampled_from(GRID_COLUMNS))
def test_equal_shares_differ_by_one_at_most_unless_a_group_is_used_up(tokens, expression, k, by):
    mask = select(PerGroup.of(expression, by=by), tokens, Keep.of(k)).mask
    outer = [*range(min(GRID_COLUMNS.index(by), 3)), GRID_COLUMNS.index(by)]
    for row in range(tokens.universe.rows):
        taken, room = {}, {}
        for place in tokens.valid[row].nonzero().flatten().tolist():
            group = tuple(tokens.grid[row, place, outer].tolist())
            taken[group] = taken.get(group, 0) + int(mask[row, place])
            room[group] = room.get(group, 0) + 1
        open_groups = [taken[g] for g in taken if taken[g] < room[g]]
        assert max(taken.values(), default=0) <= min(open_groups, default=10**9) + 1


def test_shares_by_rank_follow_the_order_of_the_whole():
    # Two frames of four; the first has places 0, 7, 6 and 5 of the order, so 8 + 1 + 2 + 3 of 36 points.
    grid = torch.zeros(1, 8, 5, dtype=torch.int64)
    grid[0, 4:, 2] = 1
    places = torch.tensor([0.0, 7, 6, 5, 1, 2, 3, 4])
    tokens = Tokens.of(-places.reshape(1, 8, 1), grid=grid)
    for k, first in ((1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3)):
        mask = select(PerGroup.of(A, share="ranked"), tokens, Keep.of(k)).mask[0]
        assert int(mask[:4].sum()) == first, k
        assert int(mask.sum()) == k


def test_windows_are_squares_of_one_picture():
    # Two tiles of 3 x 3, in windows of 2 x 2, cut off at the border.
    cells = [(0, tile, 0, r, c) for tile in range(2) for r in range(3) for c in range(3)]
    tokens = Tokens.of(-torch.arange(18.0).reshape(1, 18, 1), grid=torch.tensor([cells]))
    mask = select(PerGroup.of(A, by="window", size=2), tokens, Keep.of(8)).mask[0].reshape(2, 3, 3)
    assert mask.tolist() == [[[True, False, True], [False] * 3, [True, False, True]]] * 2


# Apportionment


@given(generators.shares())
def test_house_monotone(parties):
    laws.house_monotone(*parties)


def test_quota_deals_in_the_stated_proportion():
    tokens = opposed()
    for k in range(1, 30):
        kept = select(Quota.of(A, B, share=Fraction(3, 4)), tokens, Keep.of(k)).mask[0]
        assert abs(int(kept[:32].sum()) - k * 3 / 4) <= 1


# Reductions


@given(st.data())
def test_reductions_are_a_monoid(data):
    first = data.draw(generators.reductions(data.draw(universes(max_rows=2, max_n=8)).valid))
    second = data.draw(generators.reductions(first.valid))
    third = data.draw(generators.reductions(second.valid, max_slots=3))
    laws.reduction_identity(first)
    laws.reduction_associative(first, second, third)
    sizes = torch.arange(1.0, first.slot.numel() + 1).reshape(first.slot.shape)
    laws.reduction_mass(first, sizes)
    laws.reduction_mass(first.then(second), sizes)
    rows, n = first.slot.shape
    x = torch.randn(rows, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        laws.reduction_applies(first, second, x.to(dtype))


@given(universes(max_rows=3, max_n=10), st.data())
def test_merges_count_every_token_and_average_by_size(universe, data):
    merge, sizes = data.draw(generators.merges(universe))
    laws.reduction_mass(merge, sizes)
    laws.reduction_identity(merge)
    assert torch.equal(merge.mass(sizes).sum(dim=1), torch.where(universe.valid, sizes, 0).sum(dim=1))
    # The mean of equal vectors is that vector.
    ones = torch.ones(universe.rows, universe.n, 2, dtype=torch.float64)
    torch.testing.assert_close(merge.apply(ones)[merge.valid], torch.ones(int(merge.valid.sum()), 2).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(universe=universes(max_rows=3, max_n=10), data=st.data())
@settings(max_examples=examples(30))
def test_a_token_alone_in_its_slot_is_itself_to_the_bit(dtype, universe, data):
    merge, _ = data.draw(generators.merges(universe))
    x = torch.randn(universe.rows, universe.n, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    if x.numel():
        x[:, 0] = torch.tensor([-0.0, torch.inf, -torch.inf])
    laws.reduction_single(merge, x)
    dropped = Reduction.drop(universe, universe.valid & (universe.ids % 2 == 0))
    laws.reduction_single(dropped, x)
    laws.reduction_mass(dropped, torch.ones(universe.valid.shape))


# Evidence of other shapes travels along


@given(small, budgets)
def test_padding_and_rows_of_queries(tokens, k):
    rows = tokens.universe.rows
    text = torch.ones(rows, 2, 3)
    query = Query(tokens.features.clone(), text, torch.ones(rows, 2, dtype=torch.bool), "test")
    more = {**tokens.evidence, Evidence.QUERY: query, Evidence.TEXT_FEATURES: Text(text, query.mask)}

    class ByQuery(ByFeature):
        @property
        def needs(self):
            return frozenset({Evidence.QUERY, Evidence.TEXT_FEATURES})

        def score(self, tokens):
            return (tokens.query.patch @ tokens.query.text[:, 0].unsqueeze(-1).double()).squeeze(-1)

    asked = Tokens(tokens.universe, more, tokens.keys)
    laws.padding_free(ByQuery(), asked, k)
    laws.batch_free(ByQuery(), asked, k)


# The wiring


def test_the_laws_are_listed():
    modules = [
        importlib.import_module(f"{laws.__name__}.{found.name}") for found in pkgutil.iter_modules(laws.__path__)
    ]
    public = {
        n for module in modules for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
    }
    assert {n for n in public if not n.startswith("_")} - {"chosen", "full_chain"} == set(laws.__all__)
    assert list(laws.__all__) == sorted(laws.__all__)
    assert all(getattr(laws, name).__doc__ for name in laws.__all__)
