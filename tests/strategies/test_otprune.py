import math

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
from tokensieve_strategies import OTPrune


def kernel(x, gamma):
    """I + gamma G G^T, entry by entry, with every channel of norm 1."""
    n = len(x)
    if not n:
        return np.zeros((0, 0))
    lengths = [math.sqrt(math.fsum(v * v for v in channel)) or 1.0 for channel in zip(*x, strict=True)]
    scaled = [[v / length for v, length in zip(token, lengths, strict=True)] for token in x]
    gram = [[loops.product(a, b) for b in scaled] for a in scaled]
    return np.array([[gamma * loops.product(gram[i], gram[j]) + (i == j) for j in range(n)] for i in range(n)])


def otprune(x, k, gamma):
    """Greedy picks by the determinant of every set that a pick could make."""
    whole = kernel(x, gamma)
    picks = []
    while len(picks) < min(k, len(x)):
        left = [i for i in range(len(x)) if i not in picks]
        worth = {i: np.linalg.slogdet(whole[np.ix_([*picks, i], [*picks, i])])[1] for i in left}
        picks.append(loops.first_best(worth, left))
    return picks


@given(
    counts=st.lists(st.integers(0, 14), min_size=1, max_size=2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    gamma=st.sampled_from([0.01, 1.0, 10.0]),
)
@settings(deadline=None, max_examples=examples(80))
def test_it_is_the_formula(counts, kind, seed, gamma):
    tokens = sample(counts, kind, seed)
    for k in (1, 4, 9):
        mask = select(OTPrune(gamma=gamma), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            expected = sorted(otprune(row(tokens, number).features[0].tolist(), k, gamma))
            assert mask[number].nonzero().flatten().tolist() == expected


def transport(x, chosen):
    """The squared 2-Wasserstein distance between all tokens and the chosen ones, as Gaussians without a mean."""
    whole, part = (own.T @ own / len(own) for own in (x, x[chosen]))
    values, vectors = np.linalg.eigh(whole)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ part @ root).clip(min=0)
    return np.trace(whole) + np.trace(part) - 2 * np.sqrt(mixed).sum()


def test_less_has_to_move_than_from_random_tokens():
    better = 0
    for seed in range(20):
        # Most of the variance is in few channels, as in real features.
        x = sample([48], seed=seed, d=12).features[0].double().numpy() * np.linspace(0.1, 1.0, 12)
        x /= np.sqrt((x**2).sum(axis=0))
        tokens = sample([48], seed=seed, d=12)
        tokens.features[0] = torch.from_numpy(x).float()
        ours = select(OTPrune(gamma=10.0), tokens, Keep.of(12)).mask[0].numpy()
        chance = np.mean([transport(x, np.random.default_rng(s).permutation(48)[:12]) for s in range(20)])
        better += transport(x, ours) < chance
    assert better >= 15


def test_scale_of_a_channel_changes_nothing():
    tokens = sample([30], seed=4)
    first = select(OTPrune(), tokens, Keep.of(7)).mask
    tokens.features[..., 2] *= 1024
    assert torch.equal(select(OTPrune(), tokens, Keep.of(7)).mask, first)


def test_large_groups_in_float32_gain_as_much_as_in_float64():
    tokens = sample([600], seed=2, d=64)
    mask = select(OTPrune(), tokens, Keep.of(24)).mask[0]
    assert mask.sum() == 24
    scaled = torch.nn.functional.normalize(tokens.features[0].double(), dim=0)
    gram = scaled @ scaled.T
    whole = 0.01 * gram @ gram.T + torch.eye(600, dtype=torch.float64)
    picks = []
    for _ in range(24):
        gains = torch.full((600,), -torch.inf, dtype=torch.float64)
        inverse = torch.linalg.inv(whole[picks][:, picks]) if picks else None
        left = [i for i in range(600) if i not in picks]
        gains[left] = whole.diagonal()[left]
        if picks:
            across = whole[left][:, picks]
            gains[left] -= ((across @ inverse) * across).sum(dim=1)
        picks.append(int(gains.argmax()))
    ours, exact = (
        torch.linalg.slogdet(whole[own][:, own])[1].item() for own in (mask.nonzero().flatten().tolist(), picks)
    )
    assert ours == pytest.approx(exact, rel=1e-5)


def test_hard_batches_and_settings():
    for example in OTPrune.examples:
        hard.check(OTPrune(**example))
    for seed in range(5):
        laws.nested(OTPrune(), sample([17, 9], seed=seed))
    assert OTPrune().needs == {Evidence.FEATURES}
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(SettingError):
            OTPrune(gamma=bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="otprune: the features hold NaN"):
        select(OTPrune(), tokens, Keep.of(2))
