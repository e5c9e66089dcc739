import math
from dataclasses import replace

import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample
from test_sparsevlm import rate

from tokensieve import Evidence, Keep, Recipe, select
from tokensieve.errors import MissingEvidenceError, ScoreError, SettingError
from tokensieve_strategies import SparseVLM, SparseVLMv2


def order(tokens, number=0, **settings):
    chain = SparseVLMv2(**settings).judge(tokens, tokens.universe.n)
    return chain.queue()[number, : int(tokens.universe.counts[number])].tolist()


def expected(tokens, number, heads):
    one = row(tokens, number)
    words, seen = one.decoder_text, one.decoder_text_heads
    read = words.mask[0]
    attention = seen.attention[0][:, read].double().tolist()
    bias = seen.bias[0][:, read].double().tolist()
    n, texts = len(attention), words.embeddings[0][read].double().tolist()
    reached = [t for t in range(len(texts)) if any(any(a > 0 for a in attention[i][t]) for i in range(n))]
    chosen = rate(words.patch[0].double().tolist(), texts, reached)
    number_of_heads = seen.attention.shape[3]
    freed = [[[attention[i][t][h] / bias[i][t] for t in chosen] for i in range(n)] for h in range(number_of_heads)]
    mass = [math.fsum(math.fsum(line) for line in freed[h]) for h in range(number_of_heads)]
    best = loops.falling(mass)[:heads]
    parts = len(best) * len(chosen)
    return [math.fsum(math.fsum(freed[h][i]) for h in best) / parts if parts else 0.0 for i in range(n)]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    unseen=st.integers(0, 2),
    heads=st.sampled_from([1, 2, 3, 14]),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, unseen, heads):
    tokens = sample(counts, kind, seed, text=(4, 0, 1))
    # Text before the picture sees nothing of it.
    tokens.decoder_text_heads.attention[:, :, :unseen] = 0
    found = SparseVLMv2(heads=heads).score(tokens)
    for number, n in enumerate(counts):
        wanted = expected(tokens, number, heads)
        assert found[number, :n].tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert order(tokens, number, heads=heads) == loops.falling(wanted)
    assert SparseVLMv2().needs == {Evidence.DECODER_TEXT, Evidence.DECODER_TEXT_HEADS}


def test_positions_alone_decide_nothing():
    """Attention that is what positions make of it is worth the same everywhere; version 1.0 takes the nearest."""
    tokens = sample([6], seed=1, text=(2,))
    seen, near = tokens.decoder_text_heads, torch.arange(1.0, 7).reshape(1, 6, 1)
    seen.bias[:] = near
    seen.attention[:] = 0.1 * near.unsqueeze(3)
    tokens.decoder_text.attention[:] = 0.1 * near
    assert order(tokens) == list(range(6))
    assert SparseVLM().judge(tokens, 6).queue()[0].tolist() == [5, 4, 3, 2, 1, 0]
    seen.attention[0, 2] *= 1.5
    assert order(tokens)[0] == 2


def test_heads_that_look_elsewhere_do_not_count():
    tokens = sample([4], seed=2, text=(1,))
    seen = tokens.decoder_text_heads
    seen.bias[:] = 1
    seen.attention[0, :, 0] = torch.tensor([[0.5, 0.1, 0.02], [0.3, 0.45, 0.0], [0.1, 0.3, 0.0], [0.0, 0.1, 0.07]])
    assert order(tokens, heads=1) == [1, 2, 0, 3]
    seen.attention[0, :, 0, 0] *= 2
    assert order(tokens, heads=1) == [0, 1, 2, 3]
    # With all heads, and more than there are.
    wanted = loops.falling(seen.attention[0, :, 0].sum(dim=1).tolist())
    assert order(tokens, heads=3) == order(tokens, heads=14) == wanted


def test_a_bias_of_nothing_makes_no_infinity():
    tokens = sample([5], seed=3, text=(2,))
    tokens.decoder_text_heads.bias[0, 1] = 0
    tokens.decoder_text_heads.bias[0, 2] = -0.5
    scores = SparseVLMv2().score(tokens)
    assert scores.isfinite().all()
    assert int(select(SparseVLMv2(), tokens, Keep.of(3)).mask.sum()) == 3


def test_neighbours_do_not_choose_heads():
    tokens = sample([6, 6], seed=5, text=(3, 3))
    before = SparseVLMv2(heads=1).score(tokens)[0].clone()
    seen = tokens.decoder_text_heads
    seen.attention[1] = seen.attention[1].flip(2) * 7
    assert torch.equal(SparseVLMv2(heads=1).score(tokens)[0], before)


def test_no_text_is_said():
    tokens = sample([6, 0, 4], text=(0,))
    note = "sparsevlm_v2: no text in row {}; tokens rank by their place"
    assert select(SparseVLMv2(), tokens, Keep.of(3)).notes == (note.format(0), note.format(2))
    assert order(tokens) == list(range(6))


@pytest.mark.parametrize("part", ["attention", "bias"])
def test_a_bad_number_is_refused(part):
    tokens = sample([4, 3])
    getattr(tokens.decoder_text_heads, part)[1, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match=r"sparsevlm_v2: the .* hold NaN or an infinity"):
        select(SparseVLMv2(), tokens, Keep.of(2))


def test_other_evidence_is_refused():
    tokens = sample([4])
    wrong = {**tokens.evidence, Evidence.DECODER_TEXT_HEADS: tokens.decoder_text}
    with pytest.raises(MissingEvidenceError, match="decoder_text_heads are given as a PromptText, not PromptHeads"):
        replace(tokens, evidence=wrong).decoder_text_heads  # noqa: B018
    with pytest.raises(SettingError):
        SparseVLMv2(heads=0)


def test_versions_are_not_mixed():
    """Both tables are by the names of the same means; each recipe has its own version's numbers and strategy."""
    first, second = Recipe.load("sparsevlm"), Recipe.load("sparsevlm-v2")
    for recipe, strategy, table in (
        (first, SparseVLM, {192: [300, 200, 110], 128: [303, 110, 36], 96: [238, 48, 26], 64: [66, 30, 17]}),
        (second, SparseVLMv2, {192: [300, 200, 118], 128: [238, 108, 60], 96: [246, 54, 28], 64: [66, 34, 20]}),
    ):
        assert {type(one) for one in recipe.strategies.values()} == {strategy}
        assert {
            name: [stage.keep.count for stage in recipe.replace(keep=name).stages] for name in recipe.budgets
        } == table
        assert [str(stage.at) for stage in recipe.stages] == ["decoder.3", "decoder.7", "decoder.16"]
