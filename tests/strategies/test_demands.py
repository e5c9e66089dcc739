"""What a picture needs: the mean distance of its tokens, and their effective rank, against loops in float64."""

import math

import hard
import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample, scrambled

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import Diversity, EffectiveRank, Focus


def distances(x):
    """The mean cosine distance of each token to the others, pair by pair."""
    n = len(x)
    return [sum(1 - loops.cosine(x[i], x[j]) for j in range(n) if j != i) / (n - 1) if n > 1 else 0.0 for i in range(n)]


def spectrum(x):
    """What each token adds to the entropy of the singular values, from a decomposition of the vectors themselves."""
    if not len(x) or not np.any(x):
        return [0.0] * len(x)
    u, s, _ = np.linalg.svd(np.array(x, dtype=float), full_matrices=False)
    s[s <= s[0] * 1e-6] = 0.0
    p = s / math.fsum(s)
    parts = [-v * math.log(v) if v else 0.0 for v in p]
    return [math.fsum(float(u[i, j]) ** 2 * part for j, part in enumerate(parts)) for i in range(len(x))]


CASES = given(
    counts=st.lists(st.integers(0, 16), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
)


@CASES
@settings(deadline=None, max_examples=examples(120))
def test_diversity_is_the_formula(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    scores, demands = Diversity().score(tokens), Diversity().demand(tokens)
    for number, n in enumerate(counts):
        expected = distances(row(tokens, number).features[0].tolist())
        assert scores[number, :n].tolist() == pytest.approx(expected, abs=1e-8)
        mean = sum(expected) / n if n else 0.0
        assert demands[number].item() == pytest.approx(max(mean, 0.0), abs=1e-8)


@CASES
@settings(deadline=None, max_examples=examples(120))
def test_effective_rank_is_the_formula(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    scores, demands = EffectiveRank().score(tokens), EffectiveRank().demand(tokens)
    for number, n in enumerate(counts):
        x = row(tokens, number).features[0].tolist()
        expected = spectrum(x)
        assert scores[number, :n].tolist() == pytest.approx(expected, abs=1e-5)
        rank = math.exp(math.fsum(expected)) if n and np.any(x) else 0.0
        assert demands[number].item() == pytest.approx(rank, rel=1e-4)


@CASES
@settings(deadline=None, max_examples=examples(120))
def test_focus_is_the_formula(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    scores, demands = Focus().score(tokens), Focus().demand(tokens)
    for number, n in enumerate(counts):
        attention = [math.fsum(heads) / len(heads) for heads in row(tokens, number).vision_attention[0].tolist()]
        total = math.fsum(attention)
        parts = [value / total if total else 0.0 for value in attention]
        assert scores[number, :n].tolist() == pytest.approx(parts, abs=1e-7)
        assert float(scores[number, n:].sum()) == 0.0
        # The geometric mean of 1 / p, weighted by p.
        spread = math.prod(p**-p for p in parts if p) if total else 0.0
        assert demands[number].item() == pytest.approx(spread, rel=1e-6)


def test_focus_counts_the_tokens_that_share_attention():
    tokens = sample([8])
    tokens.evidence[Evidence.VISION_ATTENTION] = torch.zeros(1, 8, 2)
    assert Focus().demand(tokens).item() == 0.0
    for many in (1, 3, 8):
        tokens.evidence[Evidence.VISION_ATTENTION][:, :many] = 0.25
        assert Focus().demand(tokens).item() == pytest.approx(many)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (9, 9)])
def test_the_effective_rank_of_equal_directions_is_their_number(shape):
    n, d = shape
    tokens = sample([n], d=d)
    tokens.features[0] = torch.eye(n, d) * 3.0
    assert EffectiveRank().demand(tokens).item() == pytest.approx(min(n, d), rel=1e-6)
    tokens.features[0] = torch.ones(n, 1) @ tokens.features[0, :1]
    assert EffectiveRank().demand(tokens).item() == pytest.approx(1.0, rel=1e-6)
    tokens.features.zero_()
    assert EffectiveRank().demand(tokens).item() == 0.0


def test_pictures_of_copies_need_less_than_pictures_of_all_kinds():
    copies, various = sample([20], "equal"), sample([20], seed=3)
    for appraiser in (Diversity(), EffectiveRank(), Focus()):
        if appraiser.needs == {Evidence.FEATURES}:
            assert appraiser.demand(copies).item() < appraiser.demand(various).item()
        tokens = sample([9, 5, 0, 7], seed=1)
        moved, _ = scrambled(tokens, 2, 1)
        again = appraiser.demand(moved.canonical()[0])
        assert again.tolist() == pytest.approx(appraiser.demand(tokens).tolist(), rel=1e-9)


@pytest.mark.parametrize("appraiser", [Diversity, EffectiveRank, Focus])
def test_a_power_sharpens_what_pictures_need_and_changes_no_score(appraiser):
    tokens = sample([9, 14, 6], seed=2)
    plain, sharp = appraiser(), appraiser(power=3.0)
    assert sharp.demand(tokens).tolist() == pytest.approx([value**3 for value in plain.demand(tokens).tolist()])
    assert torch.equal(sharp.score(tokens), plain.score(tokens))
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(SettingError):
            appraiser(power=bad)


def test_hard_batches_and_what_is_refused():
    for strategy in (Diversity(), EffectiveRank()):
        hard.check(strategy)
        assert strategy.needs == {Evidence.FEATURES}
        tokens = sample([4])
        tokens.features[0, 1, 0] = torch.nan
        with pytest.raises(ScoreError, match=f"{strategy.name}: the features hold NaN"):
            select(strategy, tokens, Keep.of(2))
