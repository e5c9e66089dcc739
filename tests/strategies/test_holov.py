from fractions import Fraction

import hard
import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve.testing import laws
from tokensieve_strategies import GSP, HoloV


def variance(x, own, i):
    others = [loops.cosine(x[i], x[j]) for j in own if j != i]
    if not others:
        return 0.0
    mean = sum(others) / len(others)
    return sum((c - mean) ** 2 for c in others) / len(others)


def mean(values):
    return sum(values) / len(values)


def runs_of(n, number):
    number = min(number, n)
    return [[i for i in range(n) if i * number // n == run] for run in range(number)]


def holov(x, attention, k, runs, variety):
    """Quotas by the quotients of all seats at once, then each run's own best."""
    n = len(x)
    a = [float(np.float32(mean(heads))) for heads in attention]
    members = runs_of(n, runs)
    v = [variance(x, own, i) for own in members for i in own]
    # What rounding leaves of equal cosines is no variance.
    scale = mean(a) / mean(v) if v and mean(v) > 1e-20 else 0.0
    s = [a[i] + variety * scale * v[i] for i in range(n)]
    weights = [Fraction(float(np.float32(mean([s[i] for i in own])))) for own in members]
    weights = weights if any(weights) else [Fraction(1)] * len(members)
    claims = sorted((-w / (2 * seat + 1), run) for run, w in enumerate(weights) for seat in range(len(members[run])))
    quotas = [sum(run == own for _, own in claims[:k]) for run in range(len(members))]
    kept = []
    for own, quota in zip(members, quotas, strict=True):
        kept += sorted(own, key=lambda i: (-a[i], i))[:quota]
    return sorted(kept)


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    runs=st.sampled_from([1, 3, 4, 16]),
    variety=st.sampled_from([0.0, 0.09, 1.0]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, runs, variety):
    tokens = sample(counts, kind, seed)
    for k in (1, 4, 7, 20):
        found = select(HoloV(runs=runs, variety=variety), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            one = row(tokens, number)
            expected = holov(one.features[0].tolist(), one.vision_attention[0].tolist(), k, runs, variety)
            assert found[number].nonzero().flatten().tolist() == expected


def concentrated(n=96, share=6):
    """Nearly all attention on the first few tokens."""
    tokens = sample([n], seed=1)
    tokens.evidence[Evidence.VISION_ATTENTION][:] = 1e-6
    tokens.evidence[Evidence.VISION_ATTENTION][0, :share] = 1.0
    return tokens


def test_what_a_full_run_cannot_use_goes_to_the_others():
    # The code fills the place of tokens that a run does not have with zero vectors, or the last token.
    tokens = concentrated()
    for k in (6, 20, 48, 95, 96):
        mask = select(HoloV(variety=0.0), tokens, Keep.of(k)).mask[0]
        assert mask.sum() == k
        assert mask[:6].all()
    # Sainte-Laguë gives the run all that it has, and every other one the same.
    by_run = select(HoloV(variety=0.0), tokens, Keep.of(36)).mask[0].reshape(16, 6).sum(dim=1).tolist()
    assert by_run == [6, *[2] * 15]


def test_order_is_that_of_the_tokens():
    # The code lists a run by attention rank; what `run.kept` and the model see is sorted by id.
    chain = HoloV(runs=2).rank(sample([12], seed=3), 12)
    assert chain.queue()[0].tolist() != list(range(12))
    assert chain.cut(12).all()


def test_one_place_more_takes_no_token_away():
    for seed in range(20):
        laws.nested(HoloV(runs=5, variety=1.0), sample([17, 9], seed=seed))
    assert HoloV().is_nested
    assert select(HoloV() & GSP(), sample([17, 9]), Keep.of(4)).mask.sum() == 8


def test_variety_gives_a_run_more_places():
    tokens = sample([40], seed=2, d=8)
    tokens.evidence[Evidence.VISION_ATTENTION][:] = 0.5
    # One half shows the same thing everywhere.
    tokens.features[0, :20] = tokens.features[0, 0]
    mask = select(HoloV(runs=2, variety=4.0), tokens, Keep.of(12)).mask[0]
    assert mask[:20].sum() < mask[20:].sum()
    plain = select(HoloV(runs=2, variety=0.0), tokens, Keep.of(12)).mask[0]
    assert plain[:20].sum() == plain[20:].sum()


def test_no_attention_at_all_is_equal_shares():
    tokens = sample([12])
    tokens.evidence[Evidence.VISION_ATTENTION][:] = 0
    mask = select(HoloV(runs=3), tokens, Keep.of(6)).mask[0]
    assert mask.nonzero().flatten().tolist() == [0, 1, 4, 5, 8, 9]


def test_hard_batches_and_settings():
    for example in HoloV.examples:
        hard.check(HoloV(**example))
    assert HoloV().needs == {Evidence.FEATURES, Evidence.VISION_ATTENTION}
    for bad in ({"runs": 0}, {"variety": -1.0}, {"variety": float("inf")}):
        with pytest.raises(SettingError):
            HoloV(**bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="holov: the features hold NaN"):
        select(HoloV(), tokens, Keep.of(2))
