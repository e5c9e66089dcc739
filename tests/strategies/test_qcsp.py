from dataclasses import replace

import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample
from torch.utils._python_dispatch import TorchDispatchMode

from tokensieve import Chain, Evidence, Keep, Query, Tokens, Universe, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import GSP, QCSP, Random
from tokensieve_strategies._maths.dpp import greedy_map
from tokensieve_strategies._maths.relevance import relevance
from tokensieve_strategies._maths.subtracting import greedy_by_subtraction


class Syncs(TorchDispatchMode):
    """Counts the operations for which the host waits for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket._qualified_op_name in ("aten::_local_scalar_dense", "aten::nonzero")
        return func(*args, **(kwargs or {}))


def order(tokens, number):
    picks = QCSP().rank(tokens, tokens.universe.n).queue()[number].tolist()
    return picks[: int(tokens.universe.counts[number])]


def expected(tokens, number):
    one = row(tokens, number)
    texts = one.query.text[0][one.query.mask[0]].tolist()
    r = loops.relevance(one.query.patch[0].tolist(), texts, one.query.sign)
    # Relevance is settled in float32.
    r = [float(np.float32(value)) for value in r]
    return loops.greedy_map(one.features[0].tolist(), r, len(r))


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    sign=st.sampled_from([1, -1]),
    d=st.sampled_from([2, 6, 16]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, sign, d):
    tokens = sample(counts, kind, seed, d=d, text=(2, 0, 1), sign=sign)
    for number in range(len(counts)):
        places, _, _ = expected(tokens, number)
        assert order(tokens, number) == places


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(["normal", "integers", "low rank"]),
    seed=st.integers(0, 999),
    sign=st.sampled_from([1, -1]),
    orthogonal=st.booleans(),
)
@settings(deadline=None, max_examples=examples(120))
def test_the_released_code_is_the_formula_of_its_own(counts, kind, seed, sign, orthogonal):
    """Inner products and no cosines; and a loop that subtracts, but makes nothing orthogonal."""
    tokens = sample(counts, kind, seed, d=6, text=(2, 0, 1), sign=sign)
    strategy = QCSP(cosine=False, orthogonal=orthogonal)
    for number in range(len(counts)):
        one = row(tokens, number)
        texts = one.query.text[0][one.query.mask[0]].tolist()
        r = loops.relevance(one.query.patch[0].tolist(), texts, one.query.sign, loops.product)
        r = [float(np.float32(value)) for value in r]
        x = one.features[0].tolist()
        places = loops.greedy_map(x, r, len(r))[0] if orthogonal else loops.subtracting(x, r, len(r))[0]
        assert strategy.rank(tokens, tokens.universe.n).queue()[number].tolist()[: len(r)] == places


def test_long_vectors_count_more_as_inner_products_only():
    tokens = sample([9])
    query = tokens.query
    longer = replace(query, patch=query.patch * torch.arange(1, 10).reshape(1, 9, 1))
    assert torch.allclose(relevance(query, tokens.valid), relevance(longer, tokens.valid))
    assert not torch.allclose(relevance(query, tokens.valid, False), relevance(longer, tokens.valid, False))


@pytest.mark.parametrize("clusters", [12, 576])
def test_the_released_loop_looks_at_picks_and_stops_looking(clusters):
    """It was said never to look. It avoids what it picked, takes too much, and all gains are soon negative."""
    g = torch.Generator().manual_seed(clusters)
    centres = torch.randn(clusters, 64, generator=g)
    x = centres[torch.arange(576) % clusters] + 0.3 * torch.randn(576, 64, generator=g) + 0.6
    q = torch.rand(576, generator=g)
    valid = torch.ones(1, 576, dtype=torch.bool)
    places, updates = greedy_by_subtraction(x.unsqueeze(0), q.unsqueeze(0), valid, 64)
    found, changed = loops.subtracting(x.tolist(), q.double().tolist(), 64)
    assert (places[0].tolist(), updates.item()) == (found, changed)
    assert 5 <= changed <= 32
    by_quality = q.argsort(descending=True).tolist()
    assert found[:changed] != by_quality[:changed]
    # What follows has the least in common with the picks: tokens of little relevance.
    assert q[found[changed:]].mean() < 0.25 < q[found[:changed]].mean()
    greedy = greedy_map(x.unsqueeze(0), q.unsqueeze(0), valid, 64).places[0].tolist()
    assert len(set(greedy) & set(found)) < 32


def test_where_gains_are_used_up_is_said():
    tokens = sample([20, 3], "normal", 1, d=6, text=(1,))
    strategy = QCSP(orthogonal=False)
    _, updates = greedy_by_subtraction(tokens.features, relevance(tokens.query, tokens.valid), tokens.valid, 15)
    assert 0 < updates[0] < 15
    note = "qcsp: all gains are negative after {} picks in row {}; {} places filled by them"
    said = [note.format(int(a), r, min(15, n) - int(a)) for r, (a, n) in enumerate(zip(updates, (20, 3), strict=True))]
    assert list(strategy.rank(tokens, 15).notes) == [one for one in said if "; 0 places" not in one]


@given(seed=st.integers(0, 999), n=st.integers(1, 40), d=st.integers(1, 50), depth=st.integers(0, 40))
@settings(deadline=None, max_examples=examples(60))
def test_gains_and_rank_are_those_of_solved_systems(seed, n, d, depth):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, d, generator=g)
    q = torch.rand(1, n, generator=g) + 0.01
    picks = greedy_map(x, q, torch.ones(1, n, dtype=torch.bool), min(depth, n))
    places, gains, rank = loops.greedy_map(x[0].double().numpy(), q[0].double().tolist(), depth)
    assert picks.places[0].tolist() == places
    # Of as many vectors as columns, the last may have a gain below the stop.
    assert picks.rank.item() == rank
    assert min(n, d, depth) - 1 <= rank <= min(n, d, depth)
    assert picks.gains[0, :rank].tolist() == pytest.approx(gains, rel=1e-6)


def test_a_deeper_reading_may_keep_the_similarities_and_picks_the_same():
    g = torch.Generator().manual_seed(2)
    x, q = torch.randn(1, 300, 64, generator=g), torch.rand(1, 300, generator=g)
    valid = torch.ones(1, 300, dtype=torch.bool)
    deep = greedy_map(x, q, valid, 60)
    for depth in (1, 20, 23, 24, 40):
        picks = greedy_map(x, q, valid, depth)
        assert torch.equal(picks.places, deep.places[:, :depth])
        torch.testing.assert_close(picks.gains, deep.gains[:, :depth], rtol=1e-9, atol=0)


def test_both_ways_to_a_similarity_agree():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 20, 20, generator=g)
    q = torch.rand(2, 20, generator=g)
    valid = torch.ones(2, 20, dtype=torch.bool)
    kept = greedy_map(x, q, valid, 20)
    # Columns of zeros change no similarity, but here there are more tokens than columns.
    wide = greedy_map(torch.cat([x, torch.zeros_like(x)], dim=2), q, valid, 20)
    demand = greedy_map(x[..., :19], q, valid, 20)
    assert torch.equal(kept.places, wide.places)
    assert demand.rank.tolist() == [19, 19]


def test_relevance_is_the_formula():
    tokens = sample([7, 5, 6], text=(3, 0, 1), sign=-1)
    found = relevance(tokens.query, tokens.valid)
    for number in range(3):
        one = row(tokens, number).query
        r = loops.relevance(one.patch[0].tolist(), one.text[0][one.mask[0]].tolist(), -1)
        assert found[number, : len(r)].tolist() == pytest.approx(r, rel=1e-6, abs=1e-9)
    assert found[0].max() == 1


def test_the_sign_comes_with_the_query():
    tokens = sample([9])
    query = tokens.query
    plus, minus = (relevance(replace(query, sign=sign), tokens.valid)[0] for sign in (1, -1))
    assert plus.argmax() == minus.argmin()
    assert plus.argmin() == minus.argmax()
    assert "sign" not in QCSP.model_fields


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [8, 9, 16, 24])
def test_an_exhausted_rank_is_filled_by_relevance(k, dtype):
    g = torch.Generator().manual_seed(k)
    features = torch.randn(1, 24, 8, generator=g).to(dtype)
    query = Query(
        torch.randn(1, 24, 5, generator=g),
        torch.randn(1, 1, 5, generator=g),
        torch.ones(1, 1, dtype=torch.bool),
        "test",
    )
    tokens = Tokens.of(features, query=query)
    chain = QCSP().rank(tokens, k)
    picks = chain.queue()[0, :k].tolist()
    assert len(set(picks)) == k
    r = relevance(query, tokens.valid)[0].tolist()
    rest = [place for place in loops.falling(r) if place not in picks[:8]]
    assert picks[8:] == rest[: k - 8]
    chosen = select(QCSP(), tokens, Keep.of(k))
    assert int(chosen.mask.sum()) == k
    note = (f"qcsp: rank 8 reached in row 0; {k - 8} places filled by relevance",)
    assert chosen.notes == (note if k > 8 else ())


def test_duplicates_are_exhausted_in_float32_features():
    g = torch.Generator().manual_seed(0)
    few = torch.randn(1, 5, 300, generator=g)
    copies = few.repeat(1, 4, 1) * (torch.rand(1, 20, 1, generator=g) + 0.5)
    picks = greedy_map(copies, torch.ones(1, 20), torch.ones(1, 20, dtype=torch.bool), 20)
    assert picks.rank.tolist() == [5]
    assert picks.places[0].tolist()[5:] == sorted(set(range(20)) - set(picks.places[0, :5].tolist()))


def test_similar_is_not_dependent():
    # Two tokens a ten-thousandth of a radian apart: float32 arithmetic could not tell.
    x = torch.tensor([[[1.0, 0.0], [1.0, 1e-4], [1.0, 0.0]]])
    picks = greedy_map(x, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), 3)
    assert picks.places.tolist() == [[0, 1, 2]]
    assert picks.rank.tolist() == [2]


def test_gains_that_differ_by_rounding_are_one():
    quality = torch.tensor([[1.0, 1.0 + 1e-15, 1.0 - 1e-15]], dtype=torch.float64)
    picks = greedy_map(torch.eye(3).unsqueeze(0), quality, torch.ones(1, 3, dtype=torch.bool), 3)
    assert picks.places.tolist() == [[0, 1, 2]]


def test_a_zero_vector_ties_with_nobody():
    # However relevant, it has no gain; the others' gains are tiny beside its quality.
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    quality = torch.tensor([[1.0, 1e-7, 2e-7]])
    picks = greedy_map(x, quality, torch.ones(1, 3, dtype=torch.bool), 3)
    assert picks.places.tolist() == [[2, 1, 0]]
    assert picks.rank.tolist() == [2]


def test_no_question_is_plain_diversity_and_said():
    tokens = sample([6, 4, 0], text=(0,))
    chosen = select(QCSP(), tokens, Keep.of(3))
    assert chosen.notes == (
        "qcsp: no question in row 0; every token is equally relevant",
        "qcsp: no question in row 1; every token is equally relevant",
    )
    # Not even an empty text is needed.
    query = replace(tokens.query, text=torch.zeros(3, 0, 5), mask=torch.zeros(3, 0, dtype=torch.bool))
    without = replace(tokens, evidence={**tokens.evidence, Evidence.QUERY: query})
    assert torch.equal(select(QCSP(), without, Keep.of(3)).mask, chosen.mask)


def test_notes_pass_through_composers():
    tokens = sample([6], text=(0,))
    note = ("qcsp: no question in row 0; every token is equally relevant",)
    query, other = QCSP(), Random()
    for expression in (
        query & other,
        other | ~query,
        query[2] | other,
        query[4] >> other,
        other[4] >> query,
        other ^ query,
    ):
        assert select(expression, tokens, Keep.of(3)).notes == note
    assert select(other, tokens, Keep.of(3), by=query).notes == note
    assert select(GSP() & other, tokens, Keep.of(3)).notes == ()
    universe = Universe.full(1, 2)
    assert Chain.from_picks(universe, universe.ids, "x").notes == ()


def test_depth_is_all_that_is_read():
    tokens = sample([12, 9], d=16)
    deep = QCSP().rank(tokens, 12)
    shallow = QCSP().rank(tokens, 4)
    assert shallow.depth == 4
    assert torch.equal(shallow.members(4), deep.members(4))


def test_the_loop_never_waits_for_the_device():
    tokens = sample([40, 30], d=64)
    counts = []
    for depth in (2, 40):
        with Syncs() as syncs:
            greedy_map(tokens.features, torch.ones(2, 40), tokens.valid, depth)
        counts.append(syncs.count)
    assert counts == [0, 0]


@pytest.mark.parametrize("part", ["features", "patch", "text"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    hurt = {"features": tokens.features, "patch": tokens.query.patch, "text": tokens.query.text}[part]
    hurt[1, 1, 0] = torch.inf
    with pytest.raises(ScoreError, match=r"qcsp: the .* hold NaN or an infinity"):
        select(QCSP(), tokens, Keep.of(2))
