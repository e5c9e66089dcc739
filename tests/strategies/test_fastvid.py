import itertools
import math
from fractions import Fraction

import hard
import loops
import numpy as np
import pytest
import torch
import videos
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import ScoreError, SettingError
from tokensieve_strategies import FastVID


def dealt(sizes, places):
    """How many places each party gets by Sainte-Laguë, from all claims at once."""
    claims = sorted((-Fraction(size, 2 * seat + 1), party) for party, size in enumerate(sizes) for seat in range(size))
    return [sum(one == party for _, one in claims[:places]) for party in range(len(sizes))]


def peaks(x, near):
    """Places by falling density times distance to the nearest denser one, distance by distance."""
    n = len(x)
    squared = [[math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) for q in x] for p in x]
    near = min(near, n)
    density = [float(np.float32(math.exp(-sum(sorted(own)[:near]) / near))) for own in squared]
    far = max(map(max, squared))
    score = []
    for i in range(n):
        denser = [j for j in range(n) if (density[j], -j) > (density[i], -i)]
        score.append(float(np.float32(math.sqrt(min((squared[i][j] for j in denser), default=far)) * density[i])))
    return sorted(range(n), key=lambda i: (-score[i], i))


def first_of(frames, taken, number, order):
    """The first tokens of each frame's order of what is not taken."""
    free = [[i for i in frame if i not in taken] for frame in frames]
    return [i for frame, few in zip(free, dealt([*map(len, free)], number), strict=True) for i in order(frame)[:few]]


def fastvid(x, grid, attention, k, threshold=0.9, segments=8, contextual=0.4, interval=4, balance=0.6, neighbours=4):
    """Each kept token's vector."""
    mean = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    found = []

    def attended(frame):
        return sorted(frame, key=lambda i: (-mean[i], i))

    def dense(frame):
        return [frame[i] for i in peaks([x[j] for j in frame], neighbours)] if frame else []

    for picture in sorted({tuple(g[:2]) for g in grid}):
        numbers = sorted({g[2] for g in grid if tuple(g[:2]) == picture})
        frames = [[i for i, g in enumerate(grid) if tuple(g[:3]) == (*picture, f)] for f in numbers]
        centre = [np.mean([x[i] for i in frame], axis=0) for frame in frames]
        change = [loops.cosine(a, b) for a, b in itertools.pairwise(centre)]
        cuts = set(sorted(range(len(change)), key=lambda i: (change[i], i))[: segments - 1])
        cuts |= {i for i, one in enumerate(change) if one < threshold}
        edges = [0, *sorted(i + 1 for i in cuts), len(frames)]
        found += [frames[start:stop] for start, stop in itertools.pairwise(edges)]
    vector = {}
    for segment, places in zip(found, dealt([sum(map(len, one)) for one in found], k), strict=True):
        number = round(Fraction(str(contextual)) * places)
        dominant = first_of(segment, [], places - number, attended)
        anchors = first_of(segment[::interval], dominant, number, dense)
        dominant += first_of(segment, dominant + anchors, number - len(anchors), attended)
        free = [[i for i in frame if i not in anchors] for frame in segment]
        joined = {anchor: [] for anchor in sorted(anchors)}
        for i in (i for frame in free for i in frame if i not in dominant):
            if anchors:
                nearest = max(joined, key=lambda a: (round(loops.cosine(x[i], x[a]), 9), -a))
                joined[nearest].append(x[i])
        vector |= {i: np.array(x[i]) for i in dominant}
        for a, those in joined.items():
            own = np.array(x[a])
            vector[a] = balance * own + (1 - balance) * np.mean(those, axis=0) if those else own
    return vector


video = videos.two_scenes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "given_settings",
    [
        {},
        {"segments": 1},
        {"segments": 3, "contextual": 1.0, "interval": 2, "neighbours": 2},
        {"segments": 1, "threshold": -1.0, "contextual": 0.5, "balance": 0.3, "interval": 3},
        {"contextual": 0.0},
    ],
)
def test_it_is_the_formula(seed, given_settings):
    tokens = video(8, seed=seed)
    x, grid = tokens.features[0].double().tolist(), tokens.grid[0].tolist()
    strategy = FastVID(**given_settings)
    for k in (1, 5, 13, 30, 48):
        expected = fastvid(x, grid, tokens.vision_attention[0].tolist(), k, **given_settings)
        mask = select(strategy, tokens, Keep.of(k)).mask
        assert mask[0].nonzero().flatten().tolist() == sorted(expected)
        found = strategy.assign(tokens, torch.tensor([k])).apply(tokens.features.double())[0]
        for slot, place in enumerate(sorted(expected)):
            assert found[slot].tolist() == pytest.approx(list(expected[place]), abs=1e-6)


@given(
    counts=st.lists(st.integers(0, 18), min_size=1, max_size=2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    contextual=st.sampled_from([0.0, 0.4, 1.0]),
    times=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=examples(60))
def test_any_budget_is_met_and_every_slot_is_a_mean(counts, kind, seed, contextual, times):
    videos.meets_any_budget(FastVID(contextual=contextual, segments=2, interval=2), counts, kind, seed, times)


def test_a_video_is_cut_where_it_changes():
    tokens = video(8, seed=3)
    # One cut, between the scenes; one anchor in each, and all that is left of a scene joins its own.
    strategy = FastVID(segments=1, threshold=0.5, contextual=1.0, interval=8)
    slots = strategy.assign(tokens, torch.tensor([2])).slot[0].view(8, 6)
    assert slots[:4].unique().tolist() == [0]
    assert slots[4:].unique().tolist() == [1]
    kept = select(strategy, tokens, Keep.of(2)).mask[0].nonzero().flatten().tolist()
    assert [place // 6 for place in kept] == [0, 4]


def test_what_anchor_frames_have_no_room_for_is_attended():
    tokens = video(4, seed=1)
    # One anchor frame of six tokens, and all sixteen places are for anchors.
    strategy = FastVID(segments=1, threshold=-1.0, contextual=1.0, interval=4)
    kept = select(strategy, tokens, Keep.of(16)).mask[0].nonzero().flatten().tolist()
    assert kept[:6] == [*range(6)]
    attention = tokens.vision_attention[0].mean(dim=1).tolist()
    # The ten others by attention, in each frame.
    counts = dealt([6, 6, 6], 10)
    for frame, count in zip(range(1, 4), counts, strict=True):
        own = range(6 * frame, 6 * frame + 6)
        assert [i for i in kept if i in own] == sorted(sorted(own, key=lambda i: -attention[i])[:count])


def test_hard_batches_and_settings():
    for example in (*FastVID.examples, {"contextual": 1.0, "segments": 1}):
        hard.check(FastVID(**example))
    assert FastVID().needs == {Evidence.FEATURES, Evidence.GRID, Evidence.VISION_ATTENTION}
    for bad in ({"threshold": 1.5}, {"segments": 0}, {"contextual": -0.1}, {"interval": 0}, {"balance": 0.0}):
        with pytest.raises(SettingError):
            FastVID(**bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="fastvid: the features hold NaN"):
        select(FastVID(), tokens, Keep.of(2))
