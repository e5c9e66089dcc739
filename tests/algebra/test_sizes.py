"""Strategies whose set depends on the budget: asked at exactly k, composed only where k is known."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import tokensieve as ts
from tokensieve import Composer, Keep, Ranker, Tokens, Universe, select
from tokensieve.algebra.budget import counts
from tokensieve.composers.builtin import COMPOSERS
from tokensieve.composers.expression import Best, Intersection, Reading, Then
from tokensieve.composers.groups import PerGroup
from tokensieve.composers.streaming import Stream
from tokensieve.errors import AlgebraError, FormulaError, RecipeError
from tokensieve.testing import laws
from tokensieve.testing.generators import ByFeature, SpreadByFeature, batches, keeps, rankings

from .reference import cut, dealt, group_of, rows_of, size

A, B = ByFeature(column=0), ByFeature(column=1)
S = SpreadByFeature(column=0)


def spread(row, k):
    """The set of `S` for k, of a row of tokens."""
    order = sorted(row, key=lambda t: (-t.features[0], t.id))
    return [order[i * len(row) // k] for i in range(min(k, len(row)))]


def ids(tokens, mask):
    return [sorted(own[row].tolist()) for own, row in zip(tokens.ids, mask, strict=True)]


def listed(sets):
    return [sorted(token.id for token in chosen) for chosen in sets]


@given(batches(max_rows=4, max_n=14), keeps())
def test_alone_it_is_asked_at_exactly_the_budget_of_each_row(tokens, keep):
    rows = rows_of(tokens)
    expected = listed(spread(row, size(keep, len(row))) for row in rows)
    assert ids(tokens, select(S, tokens, keep).mask) == expected
    # Budgets that differ from row to row for another reason.
    own = torch.tensor([(7 * number + 3) % 15 for number in range(len(rows))])
    expected = listed(
        spread(row, min(k, len(row))) if k and row else [] for row, k in zip(rows, own.tolist(), strict=True)
    )
    assert ids(tokens, select(S, tokens, own).mask) == expected


@given(batches(max_rows=3, max_n=12), keeps(14), keeps(14))
def test_under_a_size_it_is_one_set_in_any_formula(tokens, m, keep):
    k = counts(keep, tokens.universe.counts)
    best = select(Best.of(S, m=m), tokens, counts(m, tokens.universe.counts)).mask
    assert torch.equal(best, select(S, tokens, m).mask)
    assert S[m].is_nested
    for expression in (S[m] & A, A | S[m], ~S[m], A - S[m], S[m] ^ B):
        laws.exact(expression, tokens, int(k.max()) if len(k) else 0)
        laws.nested(expression, tokens)
        laws.set_by_set(expression, tokens)


@given(batches(max_rows=3, max_n=12), rankings(), st.integers(1, 12), st.integers(0, 13))
def test_left_of_then_it_chooses_what_the_other_judges(tokens, judge, m, k):
    expression = S[m] >> judge
    expected = []
    for row in rows_of(tokens):
        kept = spread(row, min(m, len(row))) if row else []
        rest = sorted((t for t in row if t not in kept), key=lambda t: t.id)
        expected.append((cut(judge, kept, len(kept)) + rest)[:k])
    assert ids(tokens, select(expression, tokens, torch.full_like(tokens.universe.counts, k)).mask) == listed(expected)
    laws.nested(expression, tokens)


@given(batches(max_rows=3, max_n=12), rankings(), st.integers(1, 12), st.integers(1, 13))
def test_right_of_then_it_chooses_among_what_is_left(tokens, first, m, k):
    expression = first[m] >> S
    assert not expression.is_nested
    expected = []
    for row in rows_of(tokens):
        order = cut(first, row, len(row))
        kept = order[:m]
        own = spread(kept, min(k, len(kept))) if kept else []
        expected.append(own + order[m : max(m, k)])
    found = select(expression, tokens, torch.full_like(tokens.universe.counts, k)).mask
    assert ids(tokens, found) == listed(expected)


@given(
    batches(max_rows=3, max_n=14),
    st.sampled_from([{"by": "tile"}, {"by": "row"}, {"by": "window", "size": 2}, {"by": "segment", "threshold": 0.5}]),
    st.sampled_from(["equal", "proportional"]),
    st.integers(1, 15),
)
def test_a_group_is_asked_for_the_places_dealt_to_it(tokens, by, share, k):
    expression = PerGroup.of(S, share=share, **by)
    expected = []
    for row in rows_of(tokens):
        groups = {}
        for token in row:
            groups.setdefault(group_of(expression, token, row), []).append(token)
        members = [groups[number] for number in sorted(groups)]
        weights = [len(group) if share == "proportional" else 1 for group in members]
        turns = dealt([Fraction(w) for w in weights], [len(group) for group in members])[:k]
        expected.append([t for g, group in enumerate(members) if g in turns for t in spread(group, turns.count(g))])
    found = select(expression, tokens, torch.full_like(tokens.universe.counts, k)).mask
    assert ids(tokens, found) == listed(expected)


@given(batches(max_rows=3, max_n=14), st.integers(1, 3), st.lists(st.integers(0, 15), min_size=3, max_size=3))
def test_a_stream_without_a_memory_holds_as_many_as_the_budget(tokens, frames, keep):
    expected = []
    for row, k in zip(rows_of(tokens), keep, strict=False):
        held = []
        numbers = sorted({token.grid[:3] for token in row})
        for first in range(0, len(numbers), frames):
            step = numbers[first : first + frames]
            pool = sorted([*held, *(token for token in row if token.grid[:3] in step)], key=lambda token: token.id)
            held = spread(pool, min(k, len(pool))) if k else []
        expected.append(held)
    found = select(Stream.of(S, frames=frames), tokens, torch.tensor(keep[: tokens.universe.rows])).mask
    assert ids(tokens, found) == listed(expected)


@given(batches(max_rows=1, max_n=20), st.sampled_from([A, A & B, ~B]), st.integers(1, 2), st.integers(1, 6))
def test_what_a_stream_holds_is_the_selection_of_the_video_that_ends_there(tokens, operand, frames, memory):
    expression, pools = Stream.of(operand, frames=frames, memory=memory), []

    def watched(leaf, reading, depth):
        pools.append({t.id for t in rows_of(reading.tokens)[0]})
        return leaf.read(reading, depth)

    select(expression, tokens, Keep.of(memory), source=watched)
    row = rows_of(tokens)[0] if tokens.universe.rows else []
    numbers = sorted({token.grid[:3] for token in row})
    for first in range(0, len(numbers), frames):
        before, now = numbers[:first], numbers[first : first + frames]
        early = tokens.valid & torch.tensor([[tuple(g[:3]) in before for g in tokens.grid[0].tolist()]])
        ended = tokens.take(torch.arange(tokens.universe.n).unsqueeze(0), early)
        held = set(ids(tokens, select(expression, ended, Keep.of(memory)).mask)[0])
        arrived = {token.id for token in row if token.grid[:3] in now}
        assert len(held) <= memory
        assert held | arrived in pools
        pools = [pool for pool in pools if pool != held | arrived]
    assert not pools


@given(batches(max_rows=3, max_n=14), st.integers(1, 3), keeps())
def test_a_stream_of_what_judges_tokens_one_by_one_loses_nothing(tokens, frames, keep):
    assert torch.equal(select(Stream.of(A, frames=frames), tokens, keep).mask, select(A, tokens, keep).mask)


def test_a_stream_without_a_memory_has_no_order():
    assert not Stream.of(A).is_nested
    with pytest.raises(FormulaError, match=r"'stream' chooses another set for every budget"):
        Stream.of(A) & B
    with pytest.raises(AlgebraError, match=r"'stream' chooses another set for every budget"):
        select(Stream.of(A), Tokens.of(torch.zeros(1, 2, 2), grid=torch.zeros(1, 2, 5).long()), Keep.of("auto"))


@given(batches(max_rows=3, max_n=12), st.integers(0, 13))
def test_the_laws_that_do_not_speak_of_sizes_hold(tokens, k):
    for expression in (S, A[1.0] >> S, PerGroup.of(S, by="frame"), PerGroup.of(S[2], by="tile"), Stream.of(S)):
        laws.exact(expression, tokens, k)
        laws.padding_free(expression, tokens, k)
        laws.batch_free(expression, tokens, k)
        laws.deterministic(expression, tokens, k)
        laws.depth_free(expression, tokens, k)
        order = torch.arange(tokens.universe.n).flip(0).expand_as(tokens.ids)
        laws.order_free(expression, tokens, k, order)
        # They pass over what is not nested.
        laws.nested(expression, tokens)
        laws.set_by_set(expression, tokens)


@pytest.mark.parametrize("composer", COMPOSERS, ids=lambda composer: composer.name)
def test_composers_that_know_no_size_refuse_it(composer):
    operands = (S, A)[: composer.arity[1] or 2]
    settings = {"weights": (1, 1)} if composer.name == "weighted" else {}
    if composer is Then:
        operands = (A[4], S)
    if composer in (Best, Then, PerGroup, Stream):
        assert not composer.of(*operands, **settings).is_nested or composer is Best
        return
    with pytest.raises(FormulaError, match=rf"{composer.name} joins orders: 'spread_by_feature' chooses another set"):
        composer.of(*operands, **settings)


def test_what_it_says_when_it_is_refused():
    for refused in (lambda: S & A, lambda: A | S, lambda: ~S, lambda: A - S, lambda: A & (A[4] >> S)):
        with pytest.raises(FormulaError, match="which is no order; say how many it takes, such as "):
            refused()
    with pytest.raises(FormulaError, match="share=ranked weighs groups by an order"):
        PerGroup.of(S, share="ranked")
    # A composer put together by hand gets no further than its reading.
    tokens = Tokens.of(torch.zeros(1, 4, 1))
    for read in (
        lambda: Reading(tokens).of(S, 2),
        lambda: Intersection.model_construct(operands=(S, A)).read(Reading(tokens), 2),
    ):
        with pytest.raises(AlgebraError, match="'spread_by_feature' chooses another set for every budget"):
            read()
    with pytest.raises(RecipeError, match="by: 'spread_by_feature' chooses another set for every budget"):
        ts.Recipe.of(A, 4, by=S)


def test_rows_of_one_size_are_asked_together_and_rows_of_none_not_at_all():
    asked = []

    class Asked(Ranker):
        name = "asked"
        nested = False

        def rank(self, tokens, depth):
            asked.append((tokens.ids[:, 0].tolist(), depth))
            return ts.Chain.from_scores(tokens.universe, -tokens.ids.double(), self)

    universe = Universe(torch.ones(4, 3, dtype=torch.bool), torch.arange(12).reshape(4, 3))
    chosen = select(Asked(), Tokens(universe), torch.tensor([2, 0, 1, 2]))
    assert asked == [([6], 1), ([0, 9], 2)]
    assert chosen.mask.sum(dim=1).tolist() == [2, 0, 1, 2]
    # All that a strategy took was among what it would take at that budget.
    assert chosen.shares[Asked()].tolist() == [1, 0, 1, 1]


def test_other_composers_may_still_say_that_they_are_not_nested():
    class Odd(Composer):
        """Leaves out the best token where the budget is odd."""

        name = "odd"
        arity = (1, 1)
        nested = False

        def read_at(self, reading, k):
            order = reading.settled(self.operands[0], reading.tokens.universe.counts).queue()
            shift = (k % 2).unsqueeze(1)
            return ts.Chain.from_picks(reading.tokens.universe, (order + shift) % order.shape[1], self)

    tokens = Tokens.of(-torch.arange(5.0).reshape(1, 5, 1))
    kept = [select(Odd.of(A), tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist() for k in (1, 2, 3)]
    assert kept == [[1], [0, 1], [1, 2, 3]]
