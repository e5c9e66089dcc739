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
from tokensieve_strategies import CLS, IDPruner


def idpruner(x, attention, k, balance):
    """Picks by the definition: the likeness to all picks is looked up anew at every step."""
    n = len(x)
    mean = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    low, high = min(mean, default=0.0), max(mean, default=0.0)
    important = [(a - low) / (high - low) if high > low else 0.0 for a in mean]
    similar = [[round(loops.cosine(x[i], x[j]), 10) for j in range(n)] for i in range(n)]
    picks = []
    while len(picks) < min(k, n):
        left = [i for i in range(n) if i not in picks]
        score = {i: important[i] for i in left}
        if picks:
            score = {i: balance * important[i] - (1 - balance) * max(similar[i][s] for s in picks) for i in left}
        picks.append(loops.first_best(score, left))
    return sorted(picks)


@given(
    counts=st.lists(st.integers(0, 18), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    balance=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, balance):
    tokens = sample(counts, kind, seed)
    for k in (1, 4, 11):
        mask = select(IDPruner(balance=balance), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            one = row(tokens, number)
            expected = idpruner(one.features[0].tolist(), one.vision_attention[0].tolist(), k, balance)
            assert mask[number].nonzero().flatten().tolist() == expected


def kept(strategy, tokens, k):
    return select(strategy, tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()


def test_at_the_end_of_the_balance_is_attention_alone():
    tokens = sample([30], seed=5)
    for k in (1, 7, 20):
        assert kept(IDPruner(balance=1.0), tokens, k) == kept(CLS(), tokens, k)


def test_the_first_pick_is_the_most_important_one():
    tokens = sample([30], seed=5)
    first = kept(CLS(), tokens, 1)
    assert all(kept(IDPruner(balance=balance), tokens, 1) == first for balance in (0.0, 0.5, 1.0))


def test_a_copy_of_an_important_token_waits():
    tokens = sample([12], seed=1, d=24)
    attention = torch.linspace(1, 0, 12)
    tokens.evidence[Evidence.VISION_ATTENTION][:] = attention.reshape(1, -1, 1)
    tokens.features[0, 1] = tokens.features[0, 0]
    assert kept(IDPruner(balance=1.0), tokens, 2) == [0, 1]
    assert 1 not in kept(IDPruner(), tokens, 6)


def test_large_groups_in_float32_keep_what_float64_keeps():
    tokens = sample([600], seed=2, d=64)
    x = tokens.features[0].double()
    similar = torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(x, dim=-1).T
    mean = tokens.vision_attention[0].double().mean(dim=-1).float().double()
    important = (mean - mean.min()) / (mean.max() - mean.min())
    picks, nearest = [], torch.full_like(mean, -1.0)
    for _ in range(40):
        score = 0.5 * important - 0.5 * nearest
        score[picks] = -torch.inf
        picks.append(int(score.argmax()))
        nearest = torch.maximum(nearest, similar[picks[-1]])
    found = kept(IDPruner(), tokens, 40)
    assert len(set(found) & set(picks)) >= 39


def test_hard_batches_and_settings():
    for example in IDPruner.examples:
        hard.check(IDPruner(**example))
    for seed in range(5):
        laws.nested(IDPruner(), sample([17, 9], seed=seed))
    assert IDPruner().needs == {Evidence.FEATURES, Evidence.VISION_ATTENTION}
    for bad in (-0.1, 1.1):
        with pytest.raises(SettingError):
            IDPruner(balance=bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="idpruner: the features hold NaN"):
        select(IDPruner(), tokens, Keep.of(2))
