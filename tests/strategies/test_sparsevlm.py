import math
from dataclasses import replace

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import GSP, SparseVLM
from tokensieve_strategies._maths.raters import raters


def order(tokens, number=0):
    return SparseVLM().judge(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


def rate(patch, texts, seen):
    """The raters: numbers of the texts whose match is above the mean of all that are seen."""
    if not seen:
        return []
    matches = [0.0] * len(texts)
    for v in patch:
        logits = {t: sum(a * b for a, b in zip(v, texts[t], strict=True)) for t in seen}
        top = max(logits.values())
        parts = {t: math.exp(logit - top) for t, logit in logits.items()}
        for t in seen:
            matches[t] += parts[t] / sum(parts.values()) / len(patch)
    mean = sum(matches[t] for t in seen) / len(seen)
    return [t for t in seen if matches[t] > mean + 1e-9] or seen


def expected(tokens, number):
    one = row(tokens, number)
    words = one.decoder_text
    read = words.mask[0]
    attention = words.attention[0][:, read].double().tolist()
    texts = words.embeddings[0][read].double().tolist()
    seen = [t for t in range(len(texts)) if any(a[t] > 0 for a in attention)]
    chosen = rate(words.patch[0].double().tolist(), texts, seen)
    return chosen, [sum(a[t] for t in chosen) / len(chosen) if chosen else 0.0 for a in attention]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    unseen=st.integers(0, 2),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, unseen):
    tokens = sample(counts, kind, seed, text=(4, 0, 1))
    # Text before the picture sees nothing of it.
    tokens.decoder_text.attention[..., :unseen] = 0
    words = tokens.decoder_text
    reaches = words.mask & (words.attention.masked_fill(~tokens.valid.unsqueeze(2), 0) > 0).any(dim=1)
    found = raters(words, tokens.valid, reaches)
    for number in range(len(counts)):
        chosen, scores = expected(tokens, number)
        assert found[number].nonzero().flatten().tolist() == chosen
        assert order(tokens, number) == loops.falling(scores)
    assert SparseVLM().needs == {Evidence.DECODER_TEXT}


def test_only_telling_words_rate():
    tokens = sample([5], seed=1, text=(3,))
    words = tokens.decoder_text
    # Word 1 matches every visual token; the others, of which one is most attentive, match none.
    words.embeddings[:] = 0
    words.embeddings[0, 1] = words.patch[0].sum(dim=0)
    words.patch[:] = words.patch[:, :1]
    words.embeddings[0, 1] = words.patch[0, 0]
    words.attention[:] = 0
    words.attention[0, :, 1] = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.4])
    words.attention[0, 0, 2] = 0.9
    assert order(tokens) == [3, 4, 1, 2, 0]


def test_words_before_the_picture_neither_rate_nor_move_the_mean():
    """Published code looks at the text behind the picture alone."""
    tokens = sample([8], seed=2, text=(5,))
    words = tokens.decoder_text
    words.attention[..., :2] = 0
    words.embeddings[0, :2] *= 50
    cut = {name: getattr(words, name)[:, 2:] for name in ("keys", "features", "embeddings", "mask", "after")}
    behind = replace(words, attention=words.attention[..., 2:], **cut)
    without = replace(tokens, evidence={Evidence.DECODER_TEXT: behind})
    assert torch.equal(SparseVLM().score(tokens), SparseVLM().score(without))


def test_a_single_word_rates():
    """A single word's match is the mean itself, and nothing is above that."""
    tokens = sample([6], seed=3, text=(1,))
    assert order(tokens) == loops.falling(tokens.decoder_text.attention[0, :, 0].tolist())


def test_rounding_makes_no_rater():
    """Two words whose products with the picture are one number, added in another order."""
    tokens = sample([7], seed=6, text=(2,))
    tokens.decoder_text.patch[:] = 1
    for seed in range(20):
        one = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        words = replace(tokens.decoder_text, embeddings=torch.stack([one, one.flip(0)]).unsqueeze(0))
        assert raters(words, tokens.valid, words.mask).tolist() == [[True, True]]


def test_a_match_far_beyond_float32_is_one():
    tokens = sample([7], seed=4, text=(3,))
    tokens.decoder_text.embeddings[:] *= 1e30
    tokens.decoder_text.patch[:] *= 1e30
    assert SparseVLM().score(tokens).isfinite().all()
    assert int(select(SparseVLM(), tokens, Keep.of(3)).mask.sum()) == 3


def test_neighbours_do_not_rate():
    """Published code indexes the batch by its first row."""
    tokens = sample([6, 6], seed=5, text=(3, 3))
    before = SparseVLM().score(tokens)[0].clone()
    for part in (tokens.decoder_text.attention, tokens.decoder_text.embeddings, tokens.decoder_text.patch):
        part[1] = part[1].flip(0) * 7
    assert torch.equal(SparseVLM().score(tokens)[0], before)


def test_no_text_is_said():
    tokens = sample([6, 0, 4], text=(0,))
    note = "sparsevlm: no text in row {}; tokens rank by their place"
    assert select(SparseVLM(), tokens, Keep.of(3)).notes == (note.format(0), note.format(2))
    assert select(GSP() | SparseVLM(), tokens, Keep.of(3)).notes == (note.format(0), note.format(2))
    assert order(tokens) == list(range(6))


@pytest.mark.parametrize("part", ["attention", "embeddings", "patch"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    getattr(tokens.decoder_text, part)[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match=r"sparsevlm: the .* hold NaN or an infinity"):
        select(SparseVLM(), tokens, Keep.of(2))
