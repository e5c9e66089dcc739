from dataclasses import replace

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Query, Tokens, Universe, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import GSP, TRIM


def order(tokens, number=0):
    return TRIM().judge(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


def asked(patch, text, sign=1):
    query = Query(patch.unsqueeze(0), text.unsqueeze(0), torch.ones(1, len(text), dtype=torch.bool), "test", sign)
    return Tokens(Universe.full(1, len(patch)), {Evidence.QUERY: query})


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    sign=st.sampled_from([1, -1]),
)
@settings(deadline=None, max_examples=examples(100))
def test_it_is_the_formula(counts, kind, seed, sign):
    tokens = sample(counts, kind, seed, text=(2, 0, 1), sign=sign)
    for number, n in enumerate(counts):
        query = row(tokens, number).query
        texts = query.text[0][query.mask[0]].tolist()
        scores = [
            sign * sum(loops.cosine(e, t) for t in texts) / len(texts) if texts else 0.0
            for e in query.patch[0].tolist()
        ]
        assert len(scores) == n
        assert order(tokens, number) == loops.falling(scores)
    assert TRIM().needs == {Evidence.QUERY}


def test_the_sign_is_the_checkpoints():
    """Published code negates always, and a copy of it never: either inverts the order for other checkpoints."""
    patch, text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert order(asked(patch, text, 1)) == [0, 2, 1]
    assert order(asked(patch, text, -1)) == [1, 2, 0]
    assert TRIM.model_fields == {}


def test_neither_long_tokens_nor_long_texts_count_more():
    """Published code takes inner products, so that the longest vectors win."""
    patch = torch.tensor([[1.0, 0.0], [100.0, 100.0], [0.0, 1e-3]])
    assert order(asked(patch, torch.tensor([[1.0, 0.0]]))) == [0, 1, 2]
    # Both texts count the same: the token between them is the most similar to both on average.
    assert order(asked(patch, torch.tensor([[1.0, 0.0], [0.0, 50.0]]))) == [1, 0, 2]


def test_a_question_counts_for_its_own_row_alone():
    tokens = sample([6, 6], text=(2, 3), seed=4)
    before = order(tokens, 0)
    tokens.query.text[1] *= -3
    tokens.query.patch[1] *= -1
    assert order(tokens, 0) == before


def test_no_question_is_said():
    tokens = sample([6, 4, 0], text=(0,))
    note = "trim: no question in row {}; every token is equally relevant"
    assert select(TRIM(), tokens, Keep.of(3)).notes == (note.format(0), note.format(1))
    assert select(GSP() & TRIM(), tokens, Keep.of(3)).notes == (note.format(0), note.format(1))
    assert order(tokens) == list(range(6))
    query = replace(tokens.query, text=torch.zeros(3, 0, 5), mask=torch.zeros(3, 0, dtype=torch.bool))
    without = replace(tokens, evidence={Evidence.QUERY: query})
    assert order(without) == list(range(6))
    assert select(TRIM(), sample([6]), Keep.of(3)).notes == ()


@pytest.mark.parametrize("part", ["patch", "text"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    getattr(tokens.query, part)[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match=r"trim: the query's .* hold NaN or an infinity"):
        select(TRIM(), tokens, Keep.of(2))
