import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, PromptText, Tokens, Universe, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import DART


def order(strategy, tokens, number=0):
    return strategy.rank(tokens, tokens.universe.n).queue()[number, : int(tokens.universe.counts[number])].tolist()


def norms(keys):
    return [sum(abs(v) for v in key) for key in keys]


def turns(x, keys, texts, text_keys, visual, text):
    """Picks: the visual pivots, then the pivots' own, one a turn."""
    picks = loops.falling(norms(keys))[:visual]
    pivots = [x[i] for i in picks] + [texts[t] for t in loops.falling(norms(text_keys))[:text]]
    while len(picks) < len(x):
        for pivot in pivots:
            left = [i for i in range(len(x)) if i not in picks]
            if left:
                picks.append(loops.first_best([-loops.cosine(pivot, v) for v in x], left))
    return picks


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    visual=st.integers(1, 5),
    text=st.integers(0, 4),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, visual, text):
    tokens = sample(counts, kind, seed, text=(3, 0, 1))
    for number in range(len(counts)):
        one = row(tokens, number)
        words, read = one.decoder_text, one.decoder_text.mask[0] & one.decoder_text.after[0]
        wanted = turns(
            one.features[0].tolist(),
            one.decoder_keys[0].tolist(),
            words.features[0][read].tolist(),
            words.keys[0][read].tolist(),
            visual,
            text,
        )
        assert order(DART(visual=visual, text=text), tokens, number) == wanted
    assert DART().needs == {Evidence.FEATURES, Evidence.DECODER_KEYS, Evidence.DECODER_TEXT}


def whole(n=576, m=40, d=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    words = PromptText(
        torch.rand(1, n, m, generator=g),
        torch.randn(1, m, d, generator=g),
        torch.randn(1, m, d, generator=g),
        torch.randn(1, m, d, generator=g),
        torch.randn(1, n, d, generator=g),
        torch.ones(1, m, dtype=torch.bool),
        torch.ones(1, m, dtype=torch.bool),
    )
    evidence = {
        Evidence.FEATURES: torch.randn(1, n, d, generator=g),
        Evidence.DECODER_KEYS: torch.randn(1, n, d, generator=g),
        Evidence.DECODER_TEXT: words,
    }
    return Tokens(Universe.full(1, n), evidence)


@pytest.mark.parametrize(("visual", "text"), [(4, 4), (10, 5), (1, 0)])
def test_the_budget_does_not_drift(visual, text):
    """Ports keep int(n keep / pivots) tokens a pivot: 124 where 128 of 576 are asked for, with four and four."""
    tokens = whole()
    for k in (1, 3, 64, 124, 128, 192, 575, 576):
        assert int(select(DART(visual=visual, text=text), tokens, Keep.of(k)).mask.sum()) == k


def test_every_pivot_has_as_many_as_the_others():
    tokens, words = whole(n=60), whole(n=60).decoder_text
    picks = order(DART(visual=2, text=1), tokens)
    keys = norms(tokens.decoder_keys[0].tolist())
    assert picks[:2] == loops.falling(keys)[:2]
    longest = loops.falling(norms(words.keys[0].tolist()))[0]
    pivots = [*tokens.features[0, picks[:2]].tolist(), words.features[0, longest].tolist()]
    taken = set(picks[:2])
    for turn, pick in enumerate(picks[2:32]):
        similar = {i: loops.cosine(pivots[turn % 3], tokens.features[0, i].tolist()) for i in set(range(60)) - taken}
        assert pick == min(similar, key=similar.get)
        taken.add(pick)


def test_pivots_are_of_the_text_behind_the_picture():
    """In LLaVA-1.5's prompt 35 tokens of the system come first, and their keys are among the largest."""
    tokens = whole(n=20, m=9)
    words = tokens.decoder_text
    words.after[0, :5] = False
    alone = order(DART(), tokens)
    words.keys[0, :5] *= 100
    words.features[0, :5] *= -3
    assert order(DART(), tokens) == alone
    words.keys[0, 5:] *= torch.tensor([[1.0], [9.0], [3.0], [27.0]])
    # Turns are the visual pivots' first, then those of the text by falling norm.
    pivot = words.features[0, 8].tolist()
    taken = order(DART(visual=1), tokens)[:2]
    rest = [i for i in range(20) if i not in taken]
    assert order(DART(visual=1), tokens)[2] == min(
        rest, key=lambda i: loops.cosine(pivot, tokens.features[0, i].tolist())
    )


def test_pivots_go_by_the_size_of_keys_and_not_of_vectors():
    tokens = whole(n=20)
    tokens.features[0, 7] *= 100
    tokens.decoder_keys[0, 13] *= 100
    assert order(DART(), tokens)[0] == 13


def test_fewer_texts_than_pivots():
    # Row 1 has no text behind the picture: its visual pivots alone take turns.
    tokens = sample([9, 9], text=(2, 1))
    assert order(DART(visual=2, text=4), tokens, 1) == order(DART(visual=2, text=0), tokens, 1)
    assert order(DART(visual=2, text=4), tokens, 0) == order(DART(visual=2, text=1), tokens, 0)


@pytest.mark.parametrize("setting", [{"visual": 0}, {"text": -1}, {"visual": 65}, {"text": 65}, {"visual": 1.5}])
def test_settings_have_bounds(setting):
    with pytest.raises(SettingError):
        DART(**setting)


@pytest.mark.parametrize("part", ["features", "decoder_keys", "words", "word_keys"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    words = tokens.decoder_text
    hurt = {"words": words.features, "word_keys": words.keys}.get(part)
    (getattr(tokens, part) if hurt is None else hurt)[1, 1, 0] = torch.inf
    with pytest.raises(ScoreError, match=r"dart: the .* hold NaN or an infinity"):
        select(DART(), tokens, Keep.of(2))
