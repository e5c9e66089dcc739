from fractions import Fraction

import hard
import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve.testing import laws
from tokensieve_strategies import FLoC
from tokensieve_strategies._maths.coverage import greedy_cover, lazy_cover


def worth(similar, chosen):
    """The facility location function, from its definition."""
    return sum(max(row[u] for u in chosen) for row in similar) if chosen else 0.0


def facility(x, k):
    """Greedy picks, each the one with the largest worth of all sets that it could make."""
    n = len(x)
    similar = [[loops.cosine(x[i], x[j]) for j in range(n)] for i in range(n)]
    picks = []
    while len(picks) < min(k, n):
        left = [i for i in range(n) if i not in picks]
        picks.append(loops.first_best({i: worth(similar, [*picks, i]) for i in left}, left))
    return picks


def floc(x, blocks, k):
    """Every block's part of the places by the quotients of all of them, then its own picks."""
    members = {b: [i for i in range(len(x)) if blocks[i] == b] for b in sorted(set(blocks))}
    claims = sorted(
        (-Fraction(len(own), 2 * seat + 1), turn, b)
        for turn, (b, own) in enumerate(members.items())
        for seat in range(len(own))
    )
    kept = []
    for b, own in members.items():
        places = sum(one == b for _, _, one in claims[:k])
        kept += [own[i] for i in facility([x[i] for i in own], places)]
    return sorted(kept)


@given(
    counts=st.lists(st.integers(0, 16), min_size=1, max_size=2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    frames=st.sampled_from([1, 2, 32]),
    times=st.sampled_from([1, 5]),
)
@settings(deadline=None, max_examples=examples(80))
def test_it_is_the_formula(counts, kind, seed, frames, times):
    tokens = sample(counts, kind, seed)
    g = torch.Generator().manual_seed(seed)
    tokens.grid[..., 2] = torch.randint(0, times, tokens.valid.shape, generator=g)
    for k in (1, 4, 9):
        mask = select(FLoC(frames=frames), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            one = row(tokens, number)
            blocks = [time // frames for time in one.grid[0, :, 2].tolist()]
            assert mask[number].nonzero().flatten().tolist() == floc(one.features[0].tolist(), blocks, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_lazy_picks_are_those_of_the_whole_loop(kind, n):
    for seed in range(4):
        x = torch.nn.functional.normalize(sample([n], kind, seed, d=9).features[0].double(), dim=-1)
        cover = (1 + (x @ x.T * 2**30).round() / 2**30).clamp(min=0)
        for depth in (1, n // 2, n):
            assert torch.equal(lazy_cover(cover, depth), greedy_cover(cover, depth))


def test_a_rare_token_is_kept_where_an_average_forgets_it():
    g = torch.Generator().manual_seed(0)
    tokens = sample([40], d=16)
    tokens.features[0] = torch.randn(1, 16, generator=g) + 0.05 * torch.randn(40, 16, generator=g)
    tokens.features[0, 17] = -tokens.features[0, 0]
    kept = select(FLoC(), tokens, Keep.of(2)).mask[0].nonzero().flatten().tolist()
    assert 17 in kept


def test_every_block_keeps_the_same_part():
    tokens = sample([96], seed=1, d=8)
    tokens.grid[0, :, 2] = torch.arange(96) // 8
    mask = select(FLoC(frames=4), tokens, Keep.of("1/4")).mask[0]
    assert mask.reshape(3, 32).sum(dim=1).tolist() == [8, 8, 8]
    # A block does not know of the others.
    alone = tokens.take(torch.arange(32).unsqueeze(0), torch.ones(1, 32, dtype=torch.bool))
    assert torch.equal(select(FLoC(frames=4), alone, Keep.of(8)).mask[0], mask[:32])


def test_large_blocks_in_float32_keep_as_much_as_in_float64():
    tokens = sample([700], seed=2, d=64)
    mask = select(FLoC(), tokens, Keep.of(40)).mask[0]
    assert mask.sum() == 40
    x = torch.nn.functional.normalize(tokens.features[0].double(), dim=-1)
    similar = x @ x.T
    exact = greedy_cover((1 + similar).clamp(min=0), 40)
    ours, theirs = (similar[:, own].amax(dim=1).sum().item() for own in (mask, exact))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_hard_batches_and_settings():
    for example in FLoC.examples:
        hard.check(FLoC(**example))
    for seed in range(5):
        laws.nested(FLoC(frames=2), sample([17, 9], seed=seed))
    assert FLoC().needs == {Evidence.FEATURES, Evidence.GRID}
    with pytest.raises(SettingError):
        FLoC(frames=0)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="floc: the features hold NaN"):
        select(FLoC(), tokens, Keep.of(2))
