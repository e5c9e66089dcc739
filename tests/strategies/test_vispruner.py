import math
from fractions import Fraction

import hard
import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample, vectors

from tokensieve import Evidence, Keep, select
from tokensieve.errors import FormulaError, ScoreError, SettingError
from tokensieve_strategies import GSP, VisPruner
from tokensieve_strategies._maths import nearest


def vispruner(x, attention, k, rho, step, by_similarity=False):
    a = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    n = len(a)
    k = min(k, n)
    order = sorted(range(n), key=lambda i: (-a[i], i))
    first = math.floor(Fraction(rho) * k)
    kept, rest = order[:first], order[first:]
    while len(rest) > k - first:
        a_side, b_side = rest[0::2], rest[1::2]
        # Cosines that differ by less than rounding are one.
        best = [max((round(loops.cosine(x[i], x[j]) * 2**30) for j in b_side), default=0) for i in a_side]
        ranked = sorted(range(len(a_side)), key=lambda i: (-best[i], i))
        stay = ranked[min(step, len(rest) - (k - first)) :]
        rest = [a_side[i] for i in (stay if by_similarity else sorted(stay))] + b_side
    return sorted(kept + rest)


def kept(strategy, tokens, k, number=0):
    return select(strategy, tokens, Keep.of(k)).mask[number].nonzero().flatten().tolist()


@given(
    counts=st.lists(st.integers(0, 22), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    rho=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    step=st.sampled_from([1, 3, 8]),
    by=st.sampled_from(["attention", "similarity"]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, rho, step, by):
    tokens = sample(counts, kind, seed)
    for k in (1, 2, 5, 9, 20):
        for number in range(len(counts)):
            one = row(tokens, number)
            x, attention = one.vision_features[0].tolist(), one.vision_attention[0].tolist()
            expected = vispruner(x, attention, k, rho, step, by == "similarity")
            assert kept(VisPruner(rho=rho, step=step, order=by), tokens, k, number) == expected


@given(
    n=st.integers(2, 40),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    neighbours=st.sampled_from([1, 2, 16]),
    step=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=examples(120))
def test_the_nearest_of_long_lists_is_the_nearest_of_all(n, kind, seed, neighbours, step):
    """Lists of neighbours are for many tokens; here they are used for few, and their ends are reached."""
    g = torch.Generator().manual_seed(seed)
    x = vectors(kind, (n, 5), g)
    similar = x @ x.T
    pairs = similar.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "DENSE", 1)
        patch.setattr(nearest, "NEIGHBOURS", neighbours)
        ours, left = nearest.Nearest(similar), torch.randperm(n, generator=g)
        while len(left) > 1:
            a, b = left[0::2], left[1::2]
            expected = [max(pairs[i][j] for j in b.tolist()) for i in a.tolist()]
            assert ours.similarity(a, b).tolist() == expected
            left = torch.cat([b, a])[torch.randperm(len(left), generator=g)[: max(0, len(left) - step)]]
    assert torch.equal(similar, x @ x.T)


def test_many_tokens_are_thinned_out_by_the_formula():
    """As many as lists of neighbours are for, and more than half of them leave."""
    tokens = sample([700], seed=5)
    x, attention = tokens.vision_features[0].tolist(), tokens.vision_attention[0].tolist()
    assert kept(VisPruner(step=60), tokens, 64) == vispruner(x, attention, 64, 0.5, 60)


def test_the_order_of_the_rest_changes_the_diverse_half():
    tokens = sample([576], seed=3)
    ours, theirs = (set(kept(VisPruner(order=by), tokens, 64)) for by in ("attention", "similarity"))
    important = tokens.vision_attention[0].double().mean(dim=1).float().argsort(descending=True, stable=True)[:32]
    assert set(important.tolist()) <= ours & theirs
    assert len(ours & theirs) < 32 + 16


@pytest.mark.parametrize("k", [50, 58, 64, 66, 128])
@pytest.mark.parametrize("n", [575, 576])
def test_an_odd_remainder_works(n, k):
    # The code fails for 50, 58 and 66 of 576: they leave an odd number of tokens to thin out.
    tokens = sample([n], seed=k)
    ids = kept(VisPruner(), tokens, k)
    assert len(set(ids)) == k
    means = tokens.vision_attention[0].double().mean(dim=1).float()
    assert set(means.argsort(descending=True, stable=True)[: k // 2].tolist()) <= set(ids)


def test_without_attention_s_share_all_are_thinned_out():
    tokens = sample([24], "duplicates", seed=1)
    # Of three vectors, three tokens that differ remain.
    ids = kept(VisPruner(rho=0.0, step=1), tokens, 3)
    assert len({tuple(tokens.vision_features[0, i].tolist()) for i in ids}) == 3
    assert kept(VisPruner(rho=1.0), tokens, 5) == vispruner(
        tokens.vision_features[0].tolist(), tokens.vision_attention[0].tolist(), 5, 1.0, 8
    )


def test_budgets_of_rows_are_their_own():
    tokens = sample([20, 20, 7], seed=4)
    together = select(VisPruner(), tokens, torch.tensor([3, 11, 7])).mask
    for number, k in enumerate([3, 11, 7]):
        alone = select(VisPruner(), row(tokens, number), torch.tensor([k])).mask[0]
        assert torch.equal(together[number, : len(alone)], alone)


def test_it_is_not_nested_and_says_so():
    tokens = sample([30], seed=2)
    sets = [set(kept(VisPruner(), tokens, k)) for k in range(1, 30)]
    assert any(not sets[k] <= sets[k + 1] for k in range(28))
    with pytest.raises(FormulaError, match=r"such as vispruner\[64\]"):
        ~VisPruner()
    assert select(GSP()[20] >> VisPruner(), tokens, Keep.of(9)).mask.sum() == 9


def test_hard_batches_and_settings():
    for example in VisPruner.examples:
        hard.check(VisPruner(**example))
    assert VisPruner().needs == {Evidence.VISION_ATTENTION, Evidence.VISION_FEATURES}
    for bad in ({"rho": 1.1}, {"rho": -0.1}, {"step": 0}, {"order": "id"}):
        with pytest.raises(SettingError):
            VisPruner(**bad)
    tokens = sample([4])
    tokens.vision_features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="vispruner: the vision features hold NaN"):
        select(VisPruner(), tokens, Keep.of(2))
