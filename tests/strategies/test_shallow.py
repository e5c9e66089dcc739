import hard
import loops
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Recipe, select
from tokensieve.errors import ScoreError
from tokensieve_strategies import CLS, Shallow


def mean(attention):
    return [float(np.float32(sum(heads) / len(heads))) for heads in attention]


@given(
    counts=st.lists(st.integers(0, 24), min_size=1, max_size=3), kind=st.sampled_from(KINDS), seed=st.integers(0, 999)
)
@settings(deadline=None, max_examples=examples(60))
def test_it_is_the_formula(counts, kind, seed):
    tokens = sample(counts, kind, seed)
    for k in (1, 6):
        mask = select(Shallow(), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            expected = loops.falling(mean(row(tokens, number).vision_middle[0].tolist()))[:k]
            assert mask[number].nonzero().flatten().tolist() == sorted(expected)


def picture(side, seed):
    tokens = sample([side * side], seed=seed)
    place = torch.arange(side * side)
    tokens.grid[0, :, 3], tokens.grid[0, :, 4] = place // side, place % side
    return tokens


def scans(tokens, k, side, size):
    """Half of the places window by window in turn, half from the whole: each the best that is not taken yet."""
    local, deep = mean(tokens.vision_middle[0].tolist()), mean(tokens.vision_attention[0].tolist())
    windows = {}
    for i in range(side * side):
        windows.setdefault((i // side // size, i % side // size), []).append(i)
    inside = [sorted(own, key=lambda i: (-local[i], i)) for _, own in sorted(windows.items())]
    order = [own[turn] for turn in range(size * size) for own in inside if turn < len(own)]
    queues = [order, loops.falling(deep)]
    kept = []
    for turn in range(k):
        kept.append(next(i for i in queues[turn % 2] if i not in kept))
    return sorted(kept)


@pytest.mark.parametrize("seed", range(5))
def test_the_recipe_s_first_stage_is_both_scans(seed):
    [first, second] = Recipe.load("vscan").stages
    tokens = picture(24, seed)
    # As the paper has it, 96 places of 576, and any other number.
    for k in (96, 60, 100, 7):
        found = select(first.select, tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()
        assert found == scans(tokens, k, 24, 6)
    assert [str(stage.keep) for stage in (first, second)] == ["96", "32"]
    assert Recipe.load("vscan").replace(keep=64).stages == Recipe.load("vscan").stages


def test_every_window_of_the_picture_is_in_it():
    [first, _] = Recipe.load("vscan").stages
    tokens = picture(24, 1)
    # All attention is in one corner.
    for kind in (Evidence.VISION_MIDDLE, Evidence.VISION_ATTENTION):
        tokens.evidence[kind][:] = 1e-3
        tokens.evidence[kind][0, [24 * r + c for r in range(6) for c in range(6)]] = 1.0
    mask = select(first.select, tokens, Keep.of(96)).mask[0].reshape(4, 6, 4, 6)
    assert (mask.sum(dim=(1, 3)) >= 3).all()
    alone = select(CLS(), tokens, Keep.of(36)).mask[0].reshape(4, 6, 4, 6).sum(dim=(1, 3))
    assert alone[0, 0] == 36


def test_hard_batches_and_bad_attention():
    hard.check(Shallow())
    assert Shallow().needs == {Evidence.VISION_MIDDLE}
    tokens = sample([4])
    tokens.evidence[Evidence.VISION_MIDDLE][0, 1] = torch.nan
    with pytest.raises(ScoreError, match="shallow: the middle layer's attention hold NaN"):
        select(Shallow(), tokens, Keep.of(2))
