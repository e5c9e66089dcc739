import itertools
import math

import hard
import loops
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, row, sample

from tokensieve import Evidence, Keep, select
from tokensieve.errors import FormulaError, ScoreError, SettingError
from tokensieve_strategies import GSP, VidCom2

WIDTHS = [2.0**power for power in range(-3, 2)]


def mean(vectors):
    return [math.fsum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def unit(x):
    length = math.sqrt(math.fsum(v * v for v in x))
    return [v / length for v in x] if length else list(x)


def steadiest(x):
    """The half of the channels that varies least, the first ones where two vary alike."""
    columns = list(zip(*x, strict=True))
    varies = [math.fsum((v - sum(c) / len(c)) ** 2 for v in c) / len(c) for c in columns]
    most = max(varies) or 1.0
    order = loops.falling([-v / most for v in varies])
    return sorted(order[: max(1, len(columns) // 2)])


def likeness(x, frames, how):
    """The likeness of each token to its video and to its frame."""
    if how == "gaussian":
        channels = steadiest(x)
        x = [unit([v[c] for c in channels]) for v in x]
    center = mean(x)
    own = {frame: mean([v for v, other in zip(x, frames, strict=True) if other == frame]) for frame in set(frames)}

    def alike(a, b):
        if how == "cosine":
            return loops.cosine(a, b)
        apart = math.fsum((v - w) ** 2 for v, w in zip(a, b, strict=True))
        return math.fsum(math.exp(-apart / 2 / width) for width in WIDTHS)

    return [alike(v, center) for v in x], [alike(v, own[frame]) for v, frame in zip(x, frames, strict=True)]


def vidcom2(x, frames, k, ratio=None, temperature=0.01, how="gaussian"):
    """The kept places, frame by frame; `ratio` is how much of a frame stays on average."""
    n, numbers = len(x), sorted(set(frames))
    if not n:
        return []
    ratio = k / n if ratio is None else ratio
    of_video, of_frame = likeness(x, frames, how)
    score = [a + b for a, b in zip(of_video, of_frame, strict=True)]
    members = {t: [i for i in range(n) if frames[i] == t] for t in numbers}
    typical = {t: sum(of_video[i] for i in members[t]) / len(members[t]) for t in numbers}
    weight = {t: math.exp((min(typical.values()) - typical[t]) / temperature) for t in numbers}
    kept = []
    for t in numbers:
        share = ratio * (1 + weight[t] / sum(weight.values()) - 1 / len(numbers))
        places = round(round(min(share, 1.0) * len(members[t]), 8))
        places = min(max(places, 1), len(members[t]))
        kept += [members[t][i] for i in loops.falling([-score[i] for i in members[t]])[:places]]
    # Too many: the most typical of all go, the last ones first; too few: the least typical of the rest come in.
    order = loops.falling([-v for v in score])
    inside = [i for i in order if i in kept]
    outside = [i for i in order if i not in kept]
    return sorted((inside + outside)[:k])


def video(frames, height=2, width=3, d=8, seed=0, kind="normal"):
    tokens = sample([frames * height * width], kind, seed, d=d)
    place = torch.arange(frames * height * width)
    tokens.grid[0, :, 2] = place // (height * width)
    tokens.grid[0, :, 3] = place // width % height
    tokens.grid[0, :, 4] = place % width
    return tokens


def kept(tokens, k, **given_settings):
    return select(VidCom2(**given_settings), tokens, Keep.of(k)).mask[0].nonzero().flatten().tolist()


@given(
    counts=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    temperature=st.sampled_from([0.01, 0.5]),
    how=st.sampled_from(["gaussian", "cosine"]),
    frames=st.sampled_from([1, 2, 5]),
)
@settings(deadline=None, max_examples=examples(120))
def test_it_is_the_formula(counts, kind, seed, temperature, how, frames):
    tokens = sample(counts, kind, seed, d=5)
    g = torch.Generator().manual_seed(seed)
    tokens.grid[..., 2] = torch.randint(0, frames, tokens.valid.shape, generator=g)
    strategy = VidCom2(temperature=temperature, likeness=how)
    for k in (1, 4, 11):
        mask = select(strategy, tokens, Keep.of(k)).mask
        for number, n in enumerate(counts):
            one = row(tokens, number)
            times = one.grid[0, :, 2].tolist()
            expected = vidcom2(one.features[0].tolist(), times, min(k, n), temperature=temperature, how=how)
            assert mask[number].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("q", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_it_keeps_what_the_server_keeps_at_a_rate(q, seed):
    """The server's ratio is 1 - q, where ours is k / n; where n (1 - q) is a whole number they are one."""
    frames, each = 6, 8
    tokens = video(frames, 2, 4, seed=seed)
    k = VidCom2.reserved(frames, each, q)
    times = tokens.grid[0, :, 2].tolist()
    assert kept(tokens, k) == vidcom2(tokens.features[0].tolist(), times, k, ratio=1 - q)


@pytest.mark.parametrize(
    ("frames", "tokens_per_frame", "q", "count"),
    [
        (10, 10, 0.9, 10),
        (100, 2, 0.9, 100),
        (10, 64, 0.8, 127),
        (10, 10, 0.7, 30),
        (8, 196, 0.75, 392),
        (3, 196, 0.75, 147),
        (1, 256, 0.99, 2),
        (32, 4, 0.99, 32),
        (5, 7, 0.0, 35),
    ],
)
def test_the_size_is_what_the_server_reserves(frames, tokens_per_frame, q, count):
    assert VidCom2.reserved(frames, tokens_per_frame, q) == count
    assert len(kept(video(frames, 1, tokens_per_frame, d=2), count)) == count


def test_a_frame_unlike_the_others_gets_more_places():
    tokens = video(4, 2, 4, seed=1)
    tokens.features[0, :24] = tokens.features[0, :8].repeat(3, 1) + 0.01 * tokens.features[0, :24]
    by_frame = [sum(i // 8 == frame for i in kept(tokens, 16)) for frame in range(4)]
    assert max(by_frame) == by_frame[3] > by_frame[0]
    # At a high temperature all frames count alike.
    assert {sum(i // 8 == frame for i in kept(tokens, 16, temperature=1e6)) for frame in range(4)} == {4}


def test_fewer_places_than_frames_go_to_the_least_typical_tokens():
    tokens = video(6, seed=4)
    of_video, of_frame = likeness(tokens.features[0].tolist(), tokens.grid[0, :, 2].tolist(), "gaussian")
    score = [a + b for a, b in zip(of_video, of_frame, strict=True)]
    best = {t: min(range(6 * t, 6 * t + 6), key=lambda i: (score[i], i)) for t in range(6)}
    assert set(kept(tokens, 3)) <= set(best.values())


def test_another_budget_is_another_set():
    assert not VidCom2().is_nested
    with pytest.raises(FormulaError, match="chooses another set for every budget"):
        VidCom2() & GSP()
    tokens = video(5, 3, 3, seed=1)
    sets = [set(kept(tokens, k)) for k in range(1, 46)]
    assert any(not small <= large for small, large in itertools.pairwise(sets))
    assert select(VidCom2()["1/2"] & GSP(), tokens, Keep.of(5)).mask.sum() == 5


def test_hard_batches_and_settings():
    for example in VidCom2.examples:
        hard.check(VidCom2(**example))
    assert VidCom2().needs == {Evidence.FEATURES, Evidence.GRID}
    for bad in ({"temperature": 0.0}, {"temperature": float("inf")}, {"likeness": "dot"}):
        with pytest.raises(SettingError):
            VidCom2(**bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="vidcom2: the features hold NaN"):
        select(VidCom2(), tokens, Keep.of(2))
