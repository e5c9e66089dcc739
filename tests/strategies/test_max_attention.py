import hard
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import MaxAttention


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=3), kind=st.sampled_from(KINDS), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=examples(60))
def test_the_question_is_what_follows_the_picture(counts, kind, seed):
    tokens = sample(counts, kind, seed, text=(4, 0, 2))
    text = tokens.decoder_text
    text.after[:, 0] = False
    for number, n in enumerate(counts):
        asked = [t for t in range(text.mask.shape[1]) if text.mask[number, t] and text.after[number, t]]
        attention = text.attention[number].double().tolist()
        score = [float(np.float32(max((attention[i][t] for t in asked), default=0.0))) for i in range(n)]
        chain = MaxAttention().judge(tokens, max(counts))
        assert chain.queue()[number, :n].tolist() == sorted(range(n), key=lambda i: (-score[i], i))
        assert any(f"row {number}" in note for note in chain.notes) == (not asked)


def test_the_largest_counts_and_not_the_mean():
    tokens = sample([3], text=(2,))
    tokens.decoder_text.attention[0] = torch.tensor([[0.3, 0.3], [0.5, 0.0], [0.1, 0.2]])
    tokens.decoder_text.after[:] = True
    assert MaxAttention().judge(tokens, 3).queue()[0].tolist() == [1, 0, 2]
    # Text before the picture is no question.
    tokens.decoder_text.after[0, 0] = False
    assert MaxAttention().judge(tokens, 3).queue()[0].tolist() == [0, 2, 1]


def test_hard_batches_and_what_is_no_number():
    hard.check(MaxAttention())
    assert MaxAttention().needs == {Evidence.DECODER_TEXT}
    tokens = sample([4])
    tokens.decoder_text.attention[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="max_attention: the attention"):
        select(MaxAttention(), tokens, Keep.of(2))
