import hard
import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve.evidence import NEWLINE
from tokensieve_strategies import Temporal


def near(a, b):
    return round(loops.cosine(a, b) * 2**30) / 2**30


def temporal(x, grid, frames):
    """The formula, token by token."""
    scores = []
    for i, (image, tile, frame, r, c) in enumerate(grid):
        earlier = [
            (other[2], j)
            for j, other in enumerate(grid)
            if (other[0], other[1], other[3], other[4]) == (image, tile, r, c)
            and other[2] // frames == frame // frames
            and (other[2], j) < (frame, i)
        ]
        if earlier:
            scores.append(1 - near(x[i], x[max(earlier)[1]]))
            continue
        cells = [[image, tile, frame, r + dr, c + dc] for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        around = [grid.index(cell) for cell in cells if cell in grid and NEWLINE not in (cell[4], c)]
        scores.append(5 - sum(near(x[i], x[j]) for j in around) / max(1, len(around)))
    return scores


def order(strategy, tokens, number=0):
    return strategy.judge(tokens, tokens.universe.n).queue()[number].tolist()[: int(tokens.universe.counts[number])]


@given(
    counts=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    frames=st.sampled_from([1, 2, 4, 1000]),
    shape=st.sampled_from([None, (1, 1, 3, 2, 2), (2, 2, 2, 2, 2), (1, 1, 6, 1, 2)]),
)
@settings(deadline=None, max_examples=examples(150))
def test_it_is_the_formula(counts, kind, seed, frames, shape):
    tokens = sample(counts, kind, seed)
    if shape is not None:
        g = torch.Generator().manual_seed(seed)
        for axis, extent in enumerate(shape):
            low = -1 if axis == 4 else 0
            tokens.grid[..., axis] = torch.randint(low, extent, tokens.valid.shape, generator=g)
    for number in range(len(counts)):
        one = row(tokens, number)
        expected = temporal(one.features[0].tolist(), one.grid[0].tolist(), frames)
        assert Temporal(frames=frames).score(one)[0].tolist() == pytest.approx(expected, abs=1e-8)
        assert order(Temporal(frames=frames), tokens, number) == loops.falling(expected)


def video(frames, height=2, width=3, d=8, seed=0):
    tokens = sample([frames * height * width], seed=seed, d=d)
    place = torch.arange(frames * height * width)
    tokens.grid[0, :, 2] = place // (height * width)
    tokens.grid[0, :, 3] = place // width % height
    tokens.grid[0, :, 4] = place % width
    return tokens


def kept(tokens, k, **given_settings):
    return select(Temporal(**given_settings), tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()


def test_what_moves_is_kept():
    tokens = video(4)
    # Every frame is the first one, but for a token of the third.
    tokens.features[0] = tokens.features[0, :6].repeat(4, 1)
    tokens.features[0, 14] *= -1
    assert kept(tokens, 7) == [0, 1, 2, 3, 4, 5, 14]
    # It moves back again.
    assert kept(tokens, 8) == [0, 1, 2, 3, 4, 5, 14, 20]


@pytest.mark.parametrize("frames", [1, 3, 5, 7])
def test_the_last_of_an_odd_number_of_frames_is_judged(frames):
    # A port drops it.
    tokens = video(frames)
    assert order(Temporal(frames=2), tokens) == loops.falling(
        temporal(tokens.features[0].tolist(), tokens.grid[0].tolist(), 2)
    )
    last = set(range((frames - 1) * 6, frames * 6))
    # Alone in its group it is a first frame, and first frames come before all others.
    assert last <= set(kept(tokens, (frames + 1) // 2 * 6, frames=2))


def test_groups_begin_anew():
    tokens = video(6)
    tokens.features[0] = tokens.features[0, :6].repeat(6, 1)
    assert kept(tokens, 12, frames=4) == [*range(6), *range(24, 30)]
    assert kept(tokens, 6, frames=1000) == list(range(6))


def test_a_place_lost_before_is_bridged():
    tokens = video(3)
    tokens.features[0] = tokens.features[0, :6].repeat(3, 1)
    # The second frame's token at the first place is gone.
    places = torch.tensor([[i for i in range(18) if i != 6]])
    fewer = tokens.take(places, torch.ones_like(places, dtype=torch.bool))
    assert Temporal().score(fewer)[0, 11].item() == pytest.approx(0, abs=1e-8)


def test_a_picture_is_ranked_by_what_lies_beside():
    tokens = sample([16], seed=3)
    tokens.features[0] = 1.0
    tokens.features[0, 5] = -1.0
    ids = order(Temporal(), tokens)
    # The odd one first, then its neighbours, then the rest by id.
    assert ids[:5] == [5, 1, 4, 6, 9]
    assert ids[5:] == [0, 2, 3, 7, 8, 10, 11, 12, 13, 14, 15]


def test_newlines_have_no_neighbours_but_a_time():
    tokens = video(2)
    tokens.grid[0, [2, 8], 4] = NEWLINE
    scores = Temporal().score(tokens)[0]
    assert scores[2] == 5
    assert scores[8].item() == pytest.approx(1 - loops.cosine(tokens.features[0, 8], tokens.features[0, 2]), abs=1e-8)


def test_hard_batches_and_settings():
    for example in Temporal.examples:
        hard.check(Temporal(**example))
    assert Temporal().needs == {Evidence.FEATURES, Evidence.GRID}
    with pytest.raises(SettingError):
        Temporal(frames=0)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="temporal: the features hold NaN"):
        select(Temporal(), tokens, Keep.of(2))
