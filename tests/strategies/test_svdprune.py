import hard
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import SVDPrune


def leverage(x, variance):
    """From a singular value decomposition of the vectors themselves, and a projection in place of a sum."""
    if not len(x) or not np.any(x):
        return [0.0] * len(x)
    u, s, _ = np.linalg.svd(np.array(x, dtype=float), full_matrices=False)
    total = np.cumsum(s**2)
    r = int(np.argmax(total >= total[-1] * variance * (1 - 1e-10))) + 1
    while r < len(s) and s[r] ** 2 >= s[r - 1] ** 2 * (1 - 1e-10):
        r += 1
    while s[r - 1] ** 2 <= s[0] ** 2 * 1e-12:
        r -= 1
    projection = u[:, :r] @ u[:, :r].T
    return (projection.diagonal() / r).tolist()


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    variance=st.sampled_from([0.5, 0.9, 1.0]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, variance):
    tokens = sample(counts, kind, seed)
    scores = SVDPrune(variance=variance).score(tokens)
    for number, n in enumerate(counts):
        expected = leverage(row(tokens, number).features[0].tolist(), variance)
        assert scores[number, :n].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_the_smaller_side_is_decomposed(shape):
    n, d = shape
    tokens = sample([n], seed=3, d=d)
    expected = leverage(tokens.features[0].tolist(), 0.9)
    assert SVDPrune().score(tokens)[0].tolist() == pytest.approx(expected, abs=1e-9)
    assert sum(expected) == pytest.approx(1)


def test_what_only_one_token_shows_has_the_largest_leverage():
    tokens = sample([30], seed=1, d=8)
    tokens.features[0, :, 7] = 0
    tokens.features[0, 11] = 0
    tokens.features[0, 11, 7] = 4.0
    assert select(SVDPrune(variance=1.0), tokens, Keep.of(1)).mask[0].nonzero().item() == 11
    # Where its direction holds too little of the variance, it does not count.
    tokens.features[0, 11, 7] = 0.01
    assert SVDPrune(variance=0.9).score(tokens)[0, 11] == pytest.approx(0, abs=1e-6)


def test_directions_that_weigh_the_same_are_counted_together():
    tokens = sample([4], d=4)
    tokens.features[0] = torch.eye(4)
    assert SVDPrune(variance=0.5).score(tokens)[0].tolist() == [0.25] * 4


def test_hard_batches_and_settings():
    for example in SVDPrune.examples:
        hard.check(SVDPrune(**example))
    assert SVDPrune().needs == {Evidence.FEATURES}
    for bad in (0.0, 1.1):
        with pytest.raises(SettingError):
            SVDPrune(variance=bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="svdprune: the features hold NaN"):
        select(SVDPrune(), tokens, Keep.of(2))
