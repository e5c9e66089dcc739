import math
from fractions import Fraction

import hard
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import VisionTrim


def softmax(values):
    top = max(values)
    parts = [math.exp(one - top) for one in values]
    return [part / math.fsum(parts) for part in parts]


def deviation(values):
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in values) / len(values))


def importance(attention, f, grid, window=3, feature=0.3, position=0.01):
    """How dominant each token is, pair by pair."""
    n, reach = len(f), window // 2
    overall = softmax([float(np.float32(sum(heads) / len(heads))) for heads in attention])
    pairs = {
        (i, j): (math.dist(f[i], f[j]), math.dist(grid[i][3:], grid[j][3:]))
        for i in range(n)
        for j in range(n)
        if i != j
        and grid[i][:3] == grid[j][:3]
        and max(abs(grid[i][3] - grid[j][3]), abs(grid[i][4] - grid[j][4])) <= reach
    }
    kernel = dict.fromkeys(pairs, 0.0)
    for number, weight in ((0, 1.0), (1, position)):
        spread = deviation([apart[number] for apart in pairs.values()]) if pairs else 0.0
        if spread > 1e-12:
            for pair, apart in pairs.items():
                kernel[pair] -= weight * (apart[number] / (feature * spread)) ** 2
    even = {}
    for i in range(n):
        own = [value for (a, _), value in kernel.items() if a == i]
        if own:
            even[i] = math.fsum(own) / len(own)
    around = softmax([even.get(i, min(even.values(), default=0.0)) for i in range(n)])
    g, around_var = deviation(overall) ** 2, deviation(around) ** 2
    part = around_var / (g + around_var) if g + around_var else 0.5
    return [part * a + (1 - part) * b for a, b in zip(overall, around, strict=True)]


def visiontrim(score, patch, words, k, share=0.75):
    """The weights of all tokens in each kept one."""
    n = len(score)
    order = sorted(range(n), key=lambda i: (-round(n * score[i], 9), i))
    few = math.ceil(Fraction(str(share)) * k) if words else k
    weights = {i: {i: 1.0} for i in order[:few]}
    left = sorted(order[few:])
    if few == k:
        return weights
    scale = math.sqrt(len(words[0]))
    match = {i: [math.fsum(a * b for a, b in zip(patch[i], t, strict=True)) / scale for t in words] for i in left}
    per_word = [softmax([match[i][t] for i in left]) for t in range(len(words))]
    asked = {i: math.fsum(of[at] for of in per_word) / len(words) for at, i in enumerate(left)}
    complements = sorted(sorted(left, key=lambda i: (-round(len(left) * asked[i], 9), i))[: k - few])
    spoken = {i: softmax(match[i]) for i in left}
    joined = {c: {} for c in complements}
    for i in left:
        if i not in complements:
            product = {c: math.fsum(a * b for a, b in zip(spoken[i], spoken[c], strict=True)) for c in complements}
            best = max(complements, key=lambda c: (round(product[c], 9), -c))
            joined[best][i] = product[best]
    for c, those in joined.items():
        total = math.fsum(those.values())
        weights[c] = {c: 0.5 if those else 1.0} | {i: 0.5 * one / total for i, one in those.items()}
    return weights


def picture(height, width, seed, words=3, d=8):
    tokens = sample([height * width], "normal", seed, d=d, text=(words,))
    place = torch.arange(height * width)
    tokens.grid[0] = torch.stack([0 * place, 0 * place, 0 * place, place // width, place % width], dim=1)
    return tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "given_settings",
    [
        {},
        {"window": 5, "feature": 3.0, "position": 1.0, "share": 0.5},
        {"feature": 10.0, "position": 0.0, "share": 0.1},
    ],
)
def test_it_is_the_formula(seed, given_settings):
    tokens = picture(4, 5, seed)
    kernel = {name: value for name, value in given_settings.items() if name != "share"}
    score = importance(
        tokens.vision_attention[0].tolist(),
        tokens.vision_features[0].double().tolist(),
        tokens.grid[0].tolist(),
        **kernel,
    )
    query = tokens.query
    patch, words = (query.sign * query.patch[0].double()).tolist(), query.text[0][query.mask[0]].double().tolist()
    strategy = VisionTrim(**given_settings)
    for k in (1, 2, 7, 13, 20):
        expected = visiontrim(score, patch, words, k, given_settings.get("share", 0.75))
        mask = select(strategy, tokens, Keep.of(k)).mask
        assert mask[0].nonzero().flatten().tolist() == sorted(expected)
        found = strategy.assign(tokens, torch.tensor([k])).apply(tokens.features.double())[0]
        x = tokens.features[0].double().numpy()
        for slot, place in enumerate(sorted(expected)):
            vector = sum(weight * x[i] for i, weight in expected[place].items())
            assert found[slot].tolist() == pytest.approx(vector.tolist(), abs=1e-6)


@given(
    counts=st.lists(st.integers(0, 15), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.3, 0.75, 1.0]),
)
@settings(deadline=None, max_examples=examples(60))
def test_any_budget_is_met_and_every_slot_is_a_mean(counts, kind, seed, share):
    tokens = sample(counts, kind, seed, text=(4, 0, 1))
    strategy = VisionTrim(share=share)
    for k in (1, 4, 11, 30):
        picked = select(strategy, tokens, Keep.of(k))
        assert picked.mask.sum(dim=1).tolist() == [min(k, n) for n in counts]
        reduction = strategy.assign(tokens, tokens.universe.counts.clamp(max=k))
        total = reduction.mass(reduction.weight)[reduction.valid]
        torch.testing.assert_close(total, torch.ones_like(total))
        for number in range(len(counts)):
            alone = select(strategy, row(tokens, number), Keep.of(k)).mask[0]
            assert torch.equal(alone, picked.mask[number, : counts[number]])


def test_without_a_question_all_places_are_dominant():
    tokens = picture(4, 4, 1)
    tokens.query.mask[:] = False
    chain = VisionTrim(share=0.5).rank(tokens, 6)
    assert chain.notes == ("visiontrim: no question in row 0; every token is equally relevant",)
    assert torch.equal(
        select(VisionTrim(share=0.5), tokens, Keep.of(6)).mask, select(VisionTrim(share=1.0), tokens, Keep.of(6)).mask
    )
    slot = VisionTrim(share=0.5).assign(tokens, torch.tensor([6])).slot
    assert int((slot >= 0).sum()) == 6


def test_what_is_asked_for_comes_back_among_the_complements():
    tokens = picture(4, 4, 2, words=1)
    # One token is what the word says, and the least attended.
    tokens.vision_attention[0, 9] = 0.0
    tokens.query.patch[0, 9] = tokens.query.sign * 10 * tokens.query.text[0, 0]
    assert select(VisionTrim(share=0.5), tokens, Keep.of(2)).mask[0, 9]


def test_hard_batches_and_settings():
    for example in (*VisionTrim.examples, {"share": 1.0}):
        hard.check(VisionTrim(**example))
    assert VisionTrim().needs == {
        Evidence.VISION_ATTENTION,
        Evidence.VISION_FEATURES,
        Evidence.GRID,
        Evidence.QUERY,
    }
    for bad in ({"share": 0.0}, {"window": 2}, {"window": 4}, {"feature": 0.0}, {"position": -1.0}):
        with pytest.raises(SettingError):
            VisionTrim(**bad)
    tokens = sample([4])
    tokens.vision_features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="visiontrim: the vision features hold NaN"):
        select(VisionTrim(), tokens, Keep.of(2))
