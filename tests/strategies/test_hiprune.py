from fractions import Fraction
from itertools import pairwise

import hard
import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve.errors import FormulaError, ScoreError, SettingError
from tokensieve.evidence import NEWLINE
from tokensieve_strategies import GSP, HiPrune
from tokensieve_strategies._maths.grid import neighbours


def means(attention):
    return [float(np.float32(sum(heads) / len(heads))) for heads in attention]


def by(values, among):
    return sorted(among, key=lambda i: (-values[i], i))


def beside(grid, i):
    image, tile, frame, r, c = grid[i]
    cells = {(image, tile, frame, r + dr, c + dc) for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0))}
    if c == NEWLINE:
        return []
    # Of several tokens in one cell the first is meant.
    return [grid.index(list(cell)) for cell in cells if list(cell) in grid and cell[4] != NEWLINE]


def hiprune(middle, last, grid, k, share):
    """The set, in the order in which it is filled."""
    # The nearest number, and of two that are as near the even one.
    a = min(range(k + 1), key=lambda whole: (abs(whole - Fraction(str(share)) * k / 5), whole % 2))
    chosen = by(middle, range(len(middle)))[:a]
    around = {j for i in chosen for j in beside(grid, i)} - set(chosen)
    chosen += by(middle, around)
    return (chosen + [i for i in by(last, range(len(last))) if i not in chosen])[:k]


@st.composite
def grids(draw, n):
    cells = draw(
        st.lists(st.tuples(*[st.integers(0, 1)] * 3, st.integers(0, 3), st.integers(-1, 3)), min_size=n, max_size=n)
    )
    return [list(cell) for cell in cells]


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.9, 1.0]),
    own=st.booleans(),
    data=st.data(),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, share, own, data):
    tokens = sample(counts, kind, seed)
    if own:
        grid = [data.draw(grids(max(counts))) for _ in counts]
        tokens.evidence[Evidence.GRID][:] = torch.tensor(grid, dtype=torch.int64).reshape(tokens.grid.shape)
    for k in (1, 3, 7, 20):
        found = select(HiPrune(share=share), tokens, Keep.of(k)).mask
        for number in range(len(counts)):
            one = row(tokens, number)
            middle, last = means(one.vision_middle[0].tolist()), means(one.vision_received[0].tolist())
            expected = hiprune(middle, last, one.grid[0].tolist(), k, share)
            assert found[number].nonzero().flatten().tolist() == sorted(expected)


@given(st.integers(0, 30).flatmap(grids))
@settings(deadline=None)
def test_neighbours_are_those_of_the_cells(grid):
    found = neighbours(torch.tensor(grid, dtype=torch.int64).reshape(-1, 5)).tolist()
    assert [{j for j in own if j >= 0} for own in found] == [set(beside(grid, i)) for i in range(len(grid))]


def picture(height, width, anchor, last=None):
    """A picture with one token that the middle layer looks at, and those that the last one does."""
    n = height * width
    grid = torch.tensor([[0, 0, 0, i // width, i % width] for i in range(n)]).unsqueeze(0)
    middle, received = torch.zeros(1, n, 2), torch.zeros(1, n, 2)
    middle[0, anchor] = 1
    for weight, place in enumerate(reversed(last or []), 1):
        received[0, place] = weight
    evidence = {Evidence.VISION_MIDDLE: middle, Evidence.VISION_RECEIVED: received, Evidence.GRID: grid}
    return Tokens(Universe.full(1, n), evidence)


def kept(tokens, k, share=1.0):
    return select(HiPrune(share=share), tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()


def test_a_neighbour_does_not_wrap_across_the_end_of_a_row():
    # The code adds 1 to the place: after the last token of a row comes the first of the next.
    assert kept(picture(4, 5, anchor=9), 5) == sorted([9, 8, 4, 14, 0])
    assert kept(picture(4, 5, anchor=10), 5) == sorted([10, 11, 5, 15, 0])


def test_a_neighbour_outside_of_the_picture_is_none():
    # The code clamps it to the first or the last token.
    assert kept(picture(4, 5, anchor=2, last=[12, 13]), 5) == sorted([2, 1, 3, 7, 12])
    assert kept(picture(4, 5, anchor=17, last=[12, 13]), 5) == sorted([17, 16, 18, 12, 13])


def test_another_tile_is_no_neighbour():
    tokens = picture(4, 5, anchor=9, last=[0, 1])
    tokens.evidence[Evidence.GRID][0, 10:, 1] = 1
    assert kept(tokens, 5) == [0, 1, 4, 8, 9]


def test_how_many_anchors():
    # 64 tokens have one anchor and at most four buffers, 192 have four. Halves go to the even number, as in the code.
    for k, anchors in ((64, 1), (192, 4), (20, 0), (25, 0), (75, 2), (125, 2), (175, 4)):
        tokens = sample([200])
        middle, last = means(tokens.vision_middle[0].tolist()), means(tokens.vision_received[0].tolist())
        expected = hiprune(middle, last, tokens.grid[0].tolist(), k, 0.1)
        assert kept(tokens, k, share=0.1) == sorted(expected)
        registers = set(by(last, range(200))[:k])
        assert (not set(kept(tokens, k, share=0.1)) - registers) == (anchors == 0)


def test_more_anchors_and_buffers_than_places():
    # Three tokens have one anchor, whose four neighbours do not all fit.
    tokens = picture(3, 3, anchor=4)
    tokens.evidence[Evidence.VISION_MIDDLE][0, 5] = 0.5
    tokens.evidence[Evidence.VISION_MIDDLE][0, 7] = 0.25
    assert kept(tokens, 3) == [4, 5, 7]


def test_it_is_not_nested_and_says_so():
    assert not HiPrune().is_nested
    tokens = sample([40], seed=8)
    sets = [set(kept(tokens, k)) for k in range(1, 40)]
    assert any(not small <= large for small, large in pairwise(sets))
    with pytest.raises(FormulaError, match=r"say how many it takes, such as hiprune\[64\]"):
        HiPrune() & GSP()
    assert select(HiPrune()[9] & GSP(), tokens, Keep.of(5)).mask.sum() == 5


def test_hard_batches_and_settings():
    for example in HiPrune.examples:
        hard.check(HiPrune(**example))
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingError):
            HiPrune(share=bad)
    tokens = sample([4])
    tokens.evidence[Evidence.VISION_MIDDLE][0, 1] = torch.inf
    with pytest.raises(ScoreError, match="hiprune: the middle layer's attention hold NaN"):
        select(HiPrune(), tokens, Keep.of(2))
