import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, sample

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import CLS


def order(tokens, row=0):
    return CLS().judge(tokens, tokens.universe.n).queue()[row, : int(tokens.universe.counts[row])].tolist()


def given_attention(heads):
    return Tokens(Universe.full(1, heads.shape[1]), {Evidence.VISION_ATTENTION: heads})


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3), kind=st.sampled_from(KINDS), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=examples(60))
def test_it_is_the_mean_over_heads(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    for row, n in enumerate(counts):
        means = [sum(heads) / len(heads) for heads in tokens.vision_attention[row, :n].tolist()]
        assert order(tokens, row) == loops.falling(means)
    assert CLS().needs == {Evidence.VISION_ATTENTION}


def test_the_most_attended_stay():
    """The mask of a published port kept what an ascending sort put first: the least attended."""
    attention = torch.tensor([0.1, 0.4, 0.2, 0.3]).reshape(1, 4, 1)
    kept = select(CLS(), given_attention(attention), Keep.of(2)).mask[0].nonzero().flatten().tolist()
    assert kept == [1, 3]


def test_the_first_token_is_not_taken_for_cls():
    """An early port read the row of token 0 as that of a class token that the encoder did not have."""
    tokens = sample([6], seed=3)
    tokens.vision_attention[0, 0] = 0
    assert order(tokens)[-1] == 0


def test_heads_are_added_without_rounding():
    # In bfloat16, 256 + 1 is 256.
    heads = torch.tensor([[[256.0, 0.0], [256.0, 1.0]]], dtype=torch.bfloat16)
    assert order(given_attention(heads)) == [1, 0]


def test_heads_may_come_in_any_order():
    heads = torch.rand(1, 30, 12, generator=torch.Generator().manual_seed(0))
    heads[0, 15:] = heads[0, :15].flip(1)
    # Tokens with the same heads in another order are ties, whatever the sums are rounded to.
    places = order(given_attention(heads))
    assert all(places.index(place) < places.index(place + 15) for place in range(15))


def test_bad_attention_is_refused():
    tokens = sample([4, 3])
    tokens.vision_attention[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="cls: the vision attention"):
        select(CLS(), tokens, Keep.of(2))
