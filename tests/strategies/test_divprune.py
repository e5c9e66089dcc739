import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Tokens, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import DivPrune


def order(tokens, number=0):
    return DivPrune().rank(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    d=st.sampled_from([2, 6, 16]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, d):
    tokens = sample(counts, kind, seed, d=d)
    for number, n in enumerate(counts):
        x = row(tokens, number).features[0].tolist()
        distance = [[1 - loops.cosine(a, b) for b in x] for a in x]
        assert order(tokens, number) == loops.max_min(distance, n)
    assert DivPrune().needs == {Evidence.FEATURES}


def test_a_worked_example():
    x = torch.tensor([[4.0, 1, 0], [4, 1, 1], [0, 3, 1], [4, 0, 0], [0, 3, 2], [1, 1, 4], [0, 4, 1], [3, 2, 2]])
    assert order(Tokens.of(x.unsqueeze(0)))[:5] == [5, 3, 6, 7, 4]


@pytest.mark.parametrize("d", [40, 4096])
def test_copies_are_not_picked_again(d):
    """Published code picks a token again where only copies are left: 400 of these keep 288."""
    half = torch.randn(1, 288, d, generator=torch.Generator().manual_seed(d))
    tokens = Tokens.of(torch.cat([half, half], dim=1))
    assert int(select(DivPrune(), tokens, Keep.of(400)).mask.sum()) == 400
    picks = order(tokens)
    # Every token comes before the copies of any: a copy is at no distance.
    assert sorted(place % 288 for place in picks[:288]) == list(range(288))
    assert picks[288:] == sorted(picks[288:])


def test_both_ways_to_a_distance_agree():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 20, 19, generator=g)
    # Columns of zeros change no distance, but here there are more tokens than columns.
    wide = torch.cat([x, torch.zeros(2, 20, 30)], dim=2)
    assert [order(Tokens.of(x), number) for number in (0, 1)] == [order(Tokens.of(wide), number) for number in (0, 1)]


def test_lengths_do_not_matter():
    tokens = sample([15], seed=9)
    longer = Tokens.of(tokens.features * torch.logspace(-30, 30, 15).reshape(1, 15, 1))
    assert order(longer) == order(tokens)


def test_depth_is_all_that_is_read():
    tokens = sample([12, 9], d=16)
    shallow = DivPrune().rank(tokens, 4)
    assert shallow.depth == 4
    assert torch.equal(shallow.members(4), DivPrune().rank(tokens, 12).members(4))


def test_a_bad_vector_is_refused():
    tokens = sample([4, 3])
    tokens.features[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="divprune: the features"):
        select(DivPrune(), tokens, Keep.of(2))
