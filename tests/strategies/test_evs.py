import math

import hard
import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Chooser, Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import EVS, GSP, Temporal


def changes(x, grid):
    """The score of every token, one after the other; what has nothing before it is infinite."""
    last, scores = {}, {}
    for i in sorted(range(len(x)), key=lambda i: (grid[i][2], i)):
        cell = (grid[i][0], grid[i][1], grid[i][3], grid[i][4])
        scores[i] = 1 - loops.cosine(x[i], x[last[cell]]) if cell in last else math.inf
        last[cell] = i
    return [scores[i] for i in range(len(x))]


def video(frames, height=2, width=3, d=8, seed=0, kind="normal"):
    tokens = sample([frames * height * width], kind, seed, d=d)
    place = torch.arange(frames * height * width)
    tokens.grid[0, :, 2] = place // (height * width)
    tokens.grid[0, :, 3] = place // width % height
    tokens.grid[0, :, 4] = place % width
    return tokens


def kept(tokens, keep="auto", **given_settings):
    return select(EVS(**given_settings), tokens, Keep.of(keep)).mask[0].nonzero().flatten().tolist()


@given(
    counts=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    q=st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.9]),
    shape=st.sampled_from([None, (1, 1, 6, 1, 2), (2, 2, 4, 2, 2)]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, q, shape):
    tokens = sample(counts, kind, seed)
    if shape is not None:
        g = torch.Generator().manual_seed(seed)
        for axis, extent in enumerate(shape):
            tokens.grid[..., axis] = torch.randint(0, extent, tokens.valid.shape, generator=g)
    own = select(EVS(q=q), tokens, Keep.of("auto")).mask
    cut = {k: select(EVS(q=q), tokens, Keep.of(k)).mask for k in (1, 5, 13)}
    for number, n in enumerate(counts):
        one = row(tokens, number)
        scores = changes(one.features[0].tolist(), one.grid[0].tolist())
        size = max(scores.count(math.inf), int(n * (1 - q)))
        first = [i for i in range(n) if scores[i] == math.inf]
        order = first + [i for i in loops.falling([min(score, 3.0) for score in scores]) if i not in first]
        assert own[number].nonzero().flatten().tolist() == sorted(order[:size])
        for k, mask in cut.items():
            assert mask[number].nonzero().flatten().tolist() == sorted(order[:k])


@pytest.mark.parametrize(
    ("frames", "tokens_per_frame", "q", "count"),
    [
        # By the servers' formula, in floating point: 1 - 0.9 is less than a tenth, 1 - 0.7 more than 0.3.
        (10, 1, 0.9, 1),
        (10, 10, 0.9, 10),
        (100, 2, 0.9, 19),
        (10, 64, 0.8, 127),
        (10, 10, 0.7, 30),
        (8, 196, 0.75, 392),
        (4, 196, 0.75, 196),
        (3, 196, 0.75, 196),
        (32, 196, 0.5, 3136),
        (1, 256, 0.99, 256),
        (5, 7, 0.0, 35),
    ],
)
def test_the_size_is_what_servers_reserve(frames, tokens_per_frame, q, count):
    assert EVS.reserved(frames, tokens_per_frame, q) == count
    tokens = video(frames, 1, tokens_per_frame, d=2)
    assert len(kept(tokens, q=q)) == count
    # A fraction is rounded down exactly, so it is not always the same.
    assert len(kept(tokens, "1/5", q=q)) == frames * tokens_per_frame // 5


def test_the_first_frame_stays_and_then_what_changes():
    tokens = video(4)
    tokens.features[0] = tokens.features[0, :6].repeat(4, 1)
    tokens.features[0, 14] *= -1
    # A third of 24 is 8: the first frame, the token that turned, and its turning back.
    assert kept(tokens, q=2 / 3) == [0, 1, 2, 3, 4, 5, 14, 20]
    assert kept(tokens, q=0.9) == [0, 1, 2, 3, 4, 5]
    # Where nothing changes any more, the first ones win.
    assert kept(tokens, q=0.5) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 20]


def test_any_other_budget_goes_by_the_score():
    tokens = video(4, seed=3)
    for k in range(25):
        # The set itself does not matter, but for where its size is asked.
        assert kept(tokens, k or 1, q=0.9) == kept(tokens, k or 1, q=0.1)
    assert set(kept(tokens, 7)) < set(kept(tokens, 12))
    assert kept(tokens, 4) == [0, 1, 2, 3]


def test_it_ranks_later_frames_as_one_group_of_the_temporal_strategy():
    tokens = video(6, seed=2)
    ours = EVS().judge(tokens, 36).queue()[0].tolist()
    theirs = Temporal(frames=1000).judge(tokens, 36).queue()[0].tolist()
    assert [i for i in ours if i >= 6] == [i for i in theirs if i >= 6]
    assert set(ours[:6]) == set(theirs[:6])


def test_a_lost_token_is_bridged_and_a_picture_stays_whole():
    tokens = video(3)
    tokens.features[0] = tokens.features[0, :6].repeat(3, 1)
    places = torch.tensor([[i for i in range(18) if i != 6]])
    fewer = tokens.take(places, torch.ones_like(places, dtype=torch.bool))
    # The token of the third frame has not changed since the first: it is no first one.
    assert kept(fewer, q=0.9) == [0, 1, 2, 3, 4, 5]
    assert len(kept(sample([12]), q=0.9)) == 12


def test_several_videos_in_a_group_have_a_first_frame_each():
    tokens = video(4)
    tokens.grid[0, 12:, 0] = 1
    assert {0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17} == set(kept(tokens, q=0.9))


def test_in_formulas_it_is_a_set():
    tokens = video(4)
    own = set(kept(tokens, q=0.5))
    both = select(EVS(q=0.5) & GSP(), tokens, Keep.of(5)).mask[0].nonzero().flatten().tolist()
    assert set(both) < own
    assert isinstance(EVS(), Chooser)


def test_hard_batches_and_settings():
    for example in EVS.examples:
        hard.check(EVS(**example))
    assert EVS().needs == {Evidence.FEATURES, Evidence.GRID}
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(SettingError):
            EVS(q=bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="evs: the features hold NaN"):
        select(EVS(), tokens, Keep.of(2))
