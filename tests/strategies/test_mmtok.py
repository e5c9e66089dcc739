import math

import hard
import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample
from torch.utils._python_dispatch import TorchDispatchMode

from tokensieve import Evidence, Keep, Text, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve.testing import laws
from tokensieve_strategies import MMTok
from tokensieve_strategies._maths import coverage
from tokensieve_strategies._maths.coverage import greedy_cover

SETTINGS = st.sampled_from([{}, {"text_temperature": 0.5, "alpha": 0.0}, {"vision_temperature": 1.0, "alpha": 2.0}])


def near(a, b):
    # Cosines that differ by less than rounding are one.
    return round(loops.cosine(a, b) * 2**30) / 2**30


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def cover(x, words, picture, text_temperature=0.02, vision_temperature=0.2, alpha=0.5):
    """The rows of C, each of n numbers."""
    p = [[v / len(words) for v in softmax([near(t, x_i) / text_temperature for x_i in x])] for t in words]
    q = [
        [alpha * v / len(x) for v in softmax([near(f_j, f_i) / vision_temperature for f_i in picture])]
        for f_j in picture
    ]
    return p + q


def covered(rows, chosen):
    return sum(max((row[i] for i in chosen), default=0.0) for row in rows)


def greedy(rows, n):
    """Picks by the gain in F, each computed from F itself with exact sums of what grows."""
    picks = []
    while len(picks) < n:
        best = [max((row[i] for i in picks), default=0.0) for row in rows]
        left = [i for i in range(n) if i not in picks]
        gain = {i: math.fsum(max(0.0, row[i] - b) for row, b in zip(rows, best, strict=True)) for i in left}
        most = max(gain.values())
        picks.append(min(i for i in left if gain[i] >= most * (1 - 1e-9)))
    return picks


def order(strategy, tokens, number):
    return strategy.rank(tokens, tokens.universe.n).queue()[number].tolist()[: int(tokens.universe.counts[number])]


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    given_settings=SETTINGS,
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, given_settings):
    tokens = sample(counts, kind, seed, text=(3, 0, 1))
    for number, n in enumerate(counts):
        one = row(tokens, number)
        words = one.text_features.features[0][one.text_features.mask[0]].tolist()
        rows = cover(one.features[0].tolist(), words, one.vision_features[0].tolist(), **given_settings)
        assert order(MMTok(**given_settings), tokens, number) == greedy(rows, n)


def test_each_pick_adds_most_and_a_prefix_is_the_answer_for_its_size():
    tokens = sample([14], seed=4, text=(3,))
    one = row(tokens, 0)
    words = one.text_features.features[0].tolist()
    rows = cover(one.features[0].tolist(), words, one.vision_features[0].tolist())
    picks = order(MMTok(), tokens, 0)
    for k in range(14):
        best = max(covered(rows, [*picks[:k], i]) for i in range(14) if i not in picks[:k])
        assert covered(rows, picks[: k + 1]) == pytest.approx(best, rel=1e-12)
    laws.nested(MMTok(), tokens)


def test_a_matched_word_comes_first():
    tokens = sample([8], seed=1, text=(1,), d=8)
    tokens.evidence[Evidence.FEATURES][0] = torch.eye(8)
    tokens.evidence[Evidence.TEXT_FEATURES].features[0, 0] = torch.eye(8)[5]
    assert order(MMTok(), tokens, 0)[0] == 5


def test_no_question_is_the_picture_alone():
    tokens = sample([9, 6], seed=2, text=(0,))
    none = Text(torch.zeros(2, 0, 6), torch.zeros(2, 0, dtype=torch.bool))
    without = {**tokens.evidence, Evidence.TEXT_FEATURES: none}
    for k in range(10):
        mask = select(MMTok(), tokens, Keep.of(max(1, k))).mask
        assert torch.equal(select(MMTok(), type(tokens)(tokens.universe, without), Keep.of(max(1, k))).mask, mask)


def test_where_no_gain_is_left_the_lowest_id_follows():
    # With one word and no picture, the best match alone covers everything.
    tokens = sample([7], text=(1,), seed=3)
    picks = order(MMTok(alpha=0.0), tokens, 0)
    assert picks[1:] == sorted(picks[1:])
    assert order(MMTok(alpha=0.0), sample([5], text=(0,)), 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("block", [1, 30, 100])
def test_blocks_change_nothing(monkeypatch, block):
    rows = torch.rand(25, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = greedy_cover(rows, 15).tolist()
    assert plain == greedy(rows.tolist(), 15)
    monkeypatch.setattr(coverage, "_BLOCK", block)
    assert greedy_cover(rows, 15).tolist() == plain


def test_memory_is_that_of_the_matrix():
    class LargestOutput(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
            return out

    tokens = sample([600], text=(20,))
    with LargestOutput() as largest:
        MMTok().rank(tokens, 12)
    assert largest.bytes <= (600 + 20) * 600 * 8


def test_the_loop_never_waits_for_the_device():
    class Syncs(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket._qualified_op_name in ("aten::_local_scalar_dense", "aten::nonzero")
            return func(*args, **(kwargs or {}))

    with Syncs() as syncs:
        greedy_cover(torch.rand(30, 20, dtype=torch.float64), 20)
    assert syncs.count == 0


def test_where_nothing_more_can_be_covered_is_said():
    """Of three vectors, three tokens cover everything; the others are copies, and the first ones won in silence."""
    tokens = sample([12, 4, 12], "duplicates", 1, text=(0,))
    distinct = [len({tuple(x) for x in row(tokens, number).vision_features[0].tolist()}) for number in range(3)]
    said = MMTok().rank(tokens, 6).notes
    note = "mmtok: {} picks cover all that there is in row {}; {} places filled by place"
    assert list(said) == [
        note.format(d, number, min(6, n) - d)
        for number, (d, n) in enumerate(zip(distinct, (12, 4, 12), strict=True))
        if d < min(6, n)
    ]
    assert MMTok().rank(sample([12]), 12).notes == ()


def test_hard_batches_and_settings():
    for example in MMTok.examples:
        hard.check(MMTok(**example))
    assert MMTok().needs == {Evidence.FEATURES, Evidence.TEXT_FEATURES, Evidence.VISION_FEATURES}
    for bad in ({"alpha": -1.0}, {"text_temperature": 0.0}, {"vision_temperature": float("nan")}):
        with pytest.raises(SettingError):
            MMTok(**bad)


@pytest.mark.parametrize("part", ["features", "vision_features", "text"])
def test_a_bad_vector_is_refused(part):
    tokens = sample([4, 3])
    hurt = {"features": tokens.features, "vision_features": tokens.vision_features}.get(part)
    (tokens.text_features.features if hurt is None else hurt)[1, 1, 0] = torch.inf
    with pytest.raises(ScoreError, match=r"mmtok: the .*features hold NaN or an infinity"):
        select(MMTok(), tokens, Keep.of(2))
