import math

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import FastV, Feather, Uniform


def order(strategy, tokens, number=0):
    return strategy.judge(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3), kind=st.sampled_from(KINDS), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=examples(80))
def test_it_is_the_formula(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    tokens.decoder_content[0, :, 0] *= 100
    for number, n in enumerate(counts):
        heads = row(tokens, number).decoder_content[0].double().tolist()
        totals = [sum(head[h] for head in heads) for h in range(2)]
        scores = [sum(head[h] / totals[h] for h in range(2) if totals[h]) / 2 for head in heads]
        assert len(scores) == n
        assert order(Feather(), tokens, number) == loops.falling(scores)
    assert Feather().needs == {Evidence.DECODER_CONTENT}


def test_it_is_the_softmax_over_the_groups_own_tokens():
    """From raw logits: a softmax over text and image, cut to the image, is the softmax over the image."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 30, generator=g, dtype=torch.float64) * 3
    image = range(4, 20)
    everything = logits.softmax(dim=1)[:, 4:20].T.unsqueeze(0)
    tokens = Tokens(Universe.full(1, 16), {Evidence.DECODER_CONTENT: everything})
    wanted = []
    for i in image:
        parts = [math.exp(logits[h, i]) / sum(math.exp(logits[h, j]) for j in image) for h in range(3)]
        wanted.append(sum(parts) / 3)
    assert Feather().score(tokens)[0].tolist() == pytest.approx(wanted, rel=1e-6)


def test_a_head_that_looks_at_the_text_has_its_say():
    """Without the shares, a head that gives the picture a hundredth of the others' attention would not count."""
    heads = torch.tensor([[[0.50, 0.0], [0.40, 0.0], [0.05, 0.01]]])
    tokens = Tokens(Universe.full(1, 3), {Evidence.DECODER_CONTENT: heads, Evidence.DECODER_ATTENTION: heads})
    assert order(FastV(), tokens) == [0, 1, 2]
    assert order(Feather(), tokens) == [2, 0, 1]


def test_a_head_without_attention_has_none():
    heads = torch.tensor([[[0.2, 0.0], [0.3, 0.0]]])
    tokens = Tokens(Universe.full(1, 2), {Evidence.DECODER_CONTENT: heads})
    assert Feather().score(tokens)[0].tolist() == pytest.approx([0.2, 0.3])


def test_the_union_with_a_grid_is_exact():
    """Published code keeps as many as the union of both sets has."""
    tokens = sample([144], width=12, seed=6)
    expression = Feather()["3/10"] | Uniform()["1/9"]
    both = select(Feather(), tokens, Keep.of("3/10")).mask | select(Uniform(), tokens, Keep.of("1/9")).mask
    for k in (20, 40, 54, 80):
        mask = select(expression, tokens, Keep.of(k)).mask
        assert int(mask.sum()) == k
        # The union, cut where it is too large and filled where it is too small.
        assert not (mask & ~both).any() or not (both & ~mask).any()


def test_bad_attention_is_refused():
    tokens = sample([4, 3])
    tokens.decoder_content[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="feather: the decoder's attention"):
        select(Feather(), tokens, Keep.of(2))
