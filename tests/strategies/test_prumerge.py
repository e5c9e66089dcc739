import hard
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Chooser, Evidence, Keep, Recipe, Tokens, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import PruMerge, Uniform


def chosen(strategy, tokens, number=0):
    return select(strategy, tokens, Keep.of("auto")).mask[number].nonzero().flatten().tolist()


def outliers(attention, whisker):
    """The formula, of one group's attention `[n, heads]`."""
    a = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    if not a:
        return []

    def quartile(q):
        ordered = sorted(a)
        at = q * (len(a) - 1)
        low = int(at)
        high = min(low + 1, len(a) - 1)
        return ordered[low] + (at - low) * (ordered[high] - ordered[low])

    limit = quartile(0.75) + whisker * (quartile(0.75) - quartile(0.25))
    return [i for i, value in enumerate(a) if value > limit] or [a.index(max(a))]


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    whisker=st.sampled_from([0.0, 0.5, 1.5]),
    power=st.sampled_from([1, 6]),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, whisker, power):
    tokens = sample(counts, kind, seed)
    # A power makes some of the values stand out.
    tokens.evidence[Evidence.VISION_ATTENTION] **= power
    for number in range(len(counts)):
        expected = outliers(row(tokens, number).vision_attention[0].tolist(), whisker)
        assert chosen(PruMerge(whisker=whisker), tokens, number) == expected


def of(*values):
    tokens = sample([len(values)])
    tokens.evidence[Evidence.VISION_ATTENTION][:] = torch.tensor(values).reshape(1, -1, 1)
    return tokens


def test_quartiles_lie_between_two_values():
    # Of nine they are the third and the seventh: 2 and 6, and the limit 12.
    assert chosen(PruMerge(), of(0.0, 1, 2, 3, 4, 5, 6, 12, 13)) == [8]
    assert chosen(PruMerge(), of(0.0, 12.5, 1, 2, 3, 4, 5, 6, 13)) == [1, 8]
    # Of eight the upper one is a quarter of the way from 5 to 18: 8.25. The lower is 1.75, the limit 18.
    assert chosen(PruMerge(), of(0.0, 1, 2, 3, 4, 5, 18, 20)) == [7]
    assert chosen(PruMerge(), of(0.0, 1, 2, 3, 4, 5, 18.5, 20)) == [6, 7]
    # At the limit is not above it.
    assert chosen(PruMerge(whisker=0.0), of(0.0, 1, 2, 3, 4)) == [4]
    assert chosen(PruMerge(whisker=0.0), of(0.0, 1, 2, 3, 3)) == [3]


def test_there_is_always_a_token():
    # Where nothing stands out, the code's share is 0 and its spatial step a division by it.
    assert chosen(PruMerge(), of(0.5, 0.5, 0.5)) == [0]
    assert chosen(PruMerge(), of(0.0, 0.0)) == [0]
    assert chosen(PruMerge(), of(0.25)) == [0]
    assert select(PruMerge(), sample([0, 0]), Keep.of("auto")).mask.sum() == 0


def test_a_picture_s_outliers_are_its_own_in_a_batch():
    # The code takes quartiles over all pictures of the batch together.
    bright, dark = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95], [0.0, 0.0, 0.0, 0.0, 0.0, 0.1]
    tokens = sample([6, 6])
    tokens.evidence[Evidence.VISION_ATTENTION][:] = torch.tensor([bright, dark]).unsqueeze(-1)
    assert chosen(PruMerge(), tokens, 0) == [5]
    assert chosen(PruMerge(), tokens, 1) == [5]
    together = torch.tensor(bright + dark)
    low, high = together.quantile(0.25), together.quantile(0.75)
    assert not (together > high + 1.5 * (high - low)).any()


def test_plus_is_a_formula():
    values = [0.0] * 36
    values[3] = values[20] = 1.0
    tokens = of(*values)
    tokens.evidence[Evidence.GRID][0, :, 3:] = torch.tensor([[i // 6, i % 6] for i in range(36)])
    mask = select(PruMerge() | Uniform(), tokens, Keep.of(9)).mask[0]
    assert mask.sum() == 9
    assert mask[3]
    assert mask[20]
    spread = select(Uniform(), tokens, Keep.of(9)).mask[0]
    assert (mask & spread).sum() >= 7
    # Sorted, as every selection is: the code puts outliers first, then samples.
    assert chosen(PruMerge(), tokens) == [3, 20]


def test_more_outliers_than_places():
    # Level with each other in the formula, they are told apart by `by`.
    [stage] = Recipe.load("prumerge-plus").stages
    values = [0.0] * 30
    values[4], values[11], values[25] = 0.5, 0.75, 1.0
    tokens = of(*values)
    for k, expected in ((1, [25]), (2, [11, 25]), (3, [4, 11, 25])):
        assert select(stage.select, tokens, Keep.of(k), stage.by).mask[0].nonzero().flatten().tolist() == expected
    # Filling up goes by the even spread, whatever attends.
    filled = select(stage.select, tokens, Keep.of(5), stage.by).mask[0]
    assert torch.equal(filled, select(stage.select, tokens, Keep.of(5)).mask[0])


def test_it_chooses_a_set():
    assert isinstance(PruMerge(), Chooser)
    assert PruMerge().needs == {Evidence.VISION_ATTENTION}
    hard.check(PruMerge())
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(SettingError):
            PruMerge(whisker=bad)


def test_bad_attention_is_refused():
    tokens = sample([4, 2])
    tokens.evidence[Evidence.VISION_ATTENTION][1, 3] = torch.nan
    assert select(PruMerge(), tokens, Keep.of(2)).mask.sum() == 4
    tokens.evidence[Evidence.VISION_ATTENTION][1, 1] = torch.nan
    with pytest.raises(ScoreError, match="prumerge: the vision attention hold NaN"):
        select(PruMerge(), Tokens(tokens.universe, tokens.evidence), Keep.of(2))
