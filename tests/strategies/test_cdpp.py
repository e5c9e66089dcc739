import math

import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Query, Tokens, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import CDPP, QCSP, TRIM, DivPrune


def order(strategy, tokens, number=0):
    return strategy.judge(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


def quality(tokens, number, theta=None):
    one = row(tokens, number)
    texts = one.query.text[0][one.query.mask[0]].tolist()
    # Relevance is settled in float32.
    r = [float(np.float32(v)) for v in loops.relevance(one.query.patch[0].tolist(), texts, one.query.sign)]
    return r if theta is None else [math.exp(theta / (2 * (1 - theta)) * v) for v in r]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    sign=st.sampled_from([1, -1]),
    d=st.sampled_from([2, 6, 16]),
    theta=st.sampled_from([None, 0.0, 0.25, 0.5, 0.9]),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, sign, d, theta):
    tokens = sample(counts, kind, seed, d=d, text=(2, 0, 1), sign=sign)
    for number, n in enumerate(counts):
        q = quality(tokens, number, theta)
        places, _, rank = loops.greedy_map(row(tokens, number).features[0].tolist(), q, n)
        found = order(CDPP(theta=theta), tokens, number)
        assert found[:rank] == places[:rank]
        # What rounding in float32 makes one, the lowest place wins.
        rest = [float(np.float32(q[place] / max(q))) for place in found[rank:]]
        assert rest == sorted(rest, reverse=True)
        assert sorted(found) == list(range(n))


def test_without_theta_it_is_the_query_half_of_script():
    """CDPruner and QCSP are one formula."""
    tokens = sample([20, 13], seed=2, text=(3, 1))
    assert [order(CDPP(), tokens, number) for number in (0, 1)] == [order(QCSP(), tokens, number) for number in (0, 1)]


def test_theta_goes_from_diversity_to_relevance():
    tokens = sample([60], seed=0, d=9)
    assert order(CDPP(theta=0.0), tokens) == order(CDPP(), sample([60], seed=0, d=9, text=(0,)))
    best = set(order(TRIM(), tokens)[:8])
    agreed = [len(best & set(order(CDPP(theta=theta), tokens)[:8])) for theta in (0.0, 0.5, 0.99)]
    assert agreed[0] < agreed[1] < agreed[2] == 8


def test_theta_weighs_the_logarithm_of_the_determinant():
    """log det L_I is log det S_I and theta / (1 - theta) times the relevance of I, token by token."""
    tokens, theta = sample([9], seed=7, d=12), 0.75
    r = np.array(quality(tokens, 0))
    x = np.array([v / np.linalg.norm(v) for v in tokens.features[0].double().numpy()])
    taken = []
    for pick in order(CDPP(theta=theta), tokens):
        left = [i for i in range(9) if i not in taken]

        def grows(i, taken=taken):
            inside = [*taken, i]
            sign, logarithm = np.linalg.slogdet(x[inside] @ x[inside].T)
            assert sign > 0
            return logarithm + theta / (1 - theta) * r[inside].sum()

        assert pick == max(left, key=grows)
        taken.append(pick)


@pytest.mark.parametrize("k", [64, 65, 128, 300])
def test_an_exhausted_rank_gives_no_nan_and_no_token_twice(k):
    """Published code takes the root of a negative residual, and 128 of 64 columns keep 73 to 77 tokens."""
    g = torch.Generator().manual_seed(k)
    query = Query(torch.randn(1, 576, 8, generator=g), torch.randn(1, 1, 8, generator=g), torch.ones(1, 1).bool(), "")
    tokens = Tokens.of(torch.randn(1, 576, 64, generator=g), query=query)
    chosen = select(CDPP(), tokens, Keep.of(k))
    assert int(chosen.mask.sum()) == k
    assert chosen.notes == ((f"cdpp: rank 64 reached in row 0; {k - 64} places filled by relevance",) if k > 64 else ())


def test_half_of_the_tokens_are_copies():
    """Published code keeps 268 to 273 of 300 here."""
    g = torch.Generator().manual_seed(0)
    half = torch.randn(1, 288, 512, generator=g)
    query = Query(torch.randn(1, 576, 8, generator=g), torch.randn(1, 1, 8, generator=g), torch.ones(1, 1).bool(), "")
    tokens = Tokens.of(torch.cat([half, half], dim=1), query=query)
    chosen = select(CDPP(theta=0.5), tokens, Keep.of(300))
    assert int(chosen.mask.sum()) == 300
    assert chosen.notes == ("cdpp: rank 288 reached in row 0; 12 places filled by relevance",)


def test_min_and_max_are_the_groups_own():
    """Published code scales relevance over the whole batch, so that a neighbour changes what is kept."""
    batch = sample([12, 12], seed=3)
    alone = row(batch, 0)
    # A neighbour of which one token is far more relevant than anything in the first row, and one far less.
    batch.query.patch[1, 0] = batch.query.text[1].sum(dim=0)
    batch.query.patch[1, 1] = -batch.query.text[1].sum(dim=0)
    for theta in (None, 0.5):
        assert order(CDPP(theta=theta), batch, 0) == order(CDPP(theta=theta), alone)


def test_equal_similarities_divide_nothing_by_zero():
    """Published code divides by max - min."""
    tokens = sample([9], seed=1)
    tokens.query.patch[:] = 1
    assert order(CDPP(), tokens) == order(CDPP(theta=0.0), tokens)


def test_without_a_question_it_is_plain_diversity_and_said():
    tokens = sample([6, 0, 4], text=(0,))
    note = "cdpp: no question in row {}; every token is equally relevant"
    assert select(CDPP(), tokens, Keep.of(3)).notes == (note.format(0), note.format(2))
    assert CDPP().needs == {Evidence.FEATURES, Evidence.QUERY} != DivPrune().needs


@pytest.mark.parametrize("theta", [-0.1, 0.991, 1.0, math.nan, math.inf])
def test_theta_has_bounds(theta):
    with pytest.raises(SettingError):
        CDPP(theta=theta)


@pytest.mark.parametrize("part", ["features", "patch", "text"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    hurt = {"features": tokens.features, "patch": tokens.query.patch, "text": tokens.query.text}[part]
    hurt[1, 1, 0] = torch.inf
    with pytest.raises(ScoreError, match=r"cdpp: the .* hold NaN or an infinity"):
        select(CDPP(), tokens, Keep.of(2))
