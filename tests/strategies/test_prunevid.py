import itertools
import math
from fractions import Fraction
from functools import partial

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
from tokensieve_strategies import PruneVid


def clusters(x, number, near):
    """The centre of each vector's cluster by DPC-KNN, distance by distance."""
    n = len(x)
    squared = [[math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) for q in x] for p in x]
    near = min(near, number, n)
    density = [float(np.float32(math.exp(-sum(sorted(own)[:near]) / near))) for own in squared]
    far = max(map(max, squared))
    score = []
    for i in range(n):
        denser = [j for j in range(n) if (density[j], -j) > (density[i], -i)]
        score.append(float(np.float32(math.sqrt(min((squared[i][j] for j in denser), default=far)) * density[i])))
    centres = sorted(sorted(range(n), key=lambda i: (-score[i], i))[:number])
    return [i if i in centres else min(centres, key=lambda c: (round(squared[i][c], 9), c)) for i in range(n)]


def prunevid(x, grid, k, threshold=0.8, scenes=0.25, neighbours=5):
    """Each kept token's vector."""
    parts = []
    for picture in sorted({tuple(g[:2]) for g in grid}):
        at = {(g[2], g[3], g[4]): i for i, g in enumerate(grid) if tuple(g[:2]) == picture}
        frames, cells = sorted({key[0] for key in at}), sorted({key[1:] for key in at})
        centre = [np.mean([x[i] for key, i in at.items() if key[0] == f], axis=0) for f in frames]
        label = clusters(centre, max(1, round(Fraction(str(scenes)) * len(frames))), neighbours)
        for _, run in itertools.groupby(range(len(frames)), key=lambda f: label[f]):
            run = [frames[f] for f in run]
            static = []
            for cell in cells:
                seen = [at[f, *cell] for f in run if (f, *cell) in at]
                pairs = [loops.cosine(x[a], x[b]) for a, b in itertools.combinations(seen, 2)]
                if len(seen) == len(run) > 1 and sum(pairs) / len(pairs) >= threshold:
                    static.append(cell)
            parts.append([[at[f, *cell] for f in run] for cell in static])
            parts += [[[at[f, *cell]] for cell in cells if cell not in static and (f, *cell) in at] for f in run]
    parts = [part for part in parts if part]
    claims = sorted(
        (-Fraction(len(part), 2 * seat + 1), number) for number, part in enumerate(parts) for seat in range(len(part))
    )
    vector = {}
    for number, part in enumerate(parts):
        places = sum(one == number for _, one in claims[:k])
        if places:
            means = [np.mean([x[i] for i in unit], axis=0) for unit in part]
            home = clusters(means, places, neighbours)
            for c in set(home):
                vector[part[c][0]] = np.mean([means[u] for u in range(len(part)) if home[u] == c], axis=0)
    return vector


video = partial(videos.two_scenes, still=4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("given_settings", "budgets"),
    [
        ({}, (1, 5, 11, 16)),
        ({"scenes": 0.5, "neighbours": 2}, (1, 5, 11, 16)),
        ({"scenes": 1.0}, (1, 11, 30, 48)),
        # All is static in one scene, so there are six places.
        ({"threshold": -1.0, "scenes": 0.01}, (1, 3, 6)),
    ],
)
def test_it_is_the_formula(seed, given_settings, budgets):
    tokens = video(8, seed=seed)
    x, grid = tokens.features[0].double().tolist(), tokens.grid[0].tolist()
    strategy = PruneVid(**given_settings)
    for k in budgets:
        expected = prunevid(x, grid, k, **given_settings)
        mask = select(strategy, tokens, Keep.of(k)).mask
        assert mask[0].nonzero().flatten().tolist() == sorted(expected)
        found = strategy.assign(tokens, torch.tensor([k])).apply(tokens.features.double())[0]
        for slot, place in enumerate(sorted(expected)):
            assert found[slot].tolist() == pytest.approx(list(expected[place]), abs=1e-6)


@given(
    counts=st.lists(st.integers(0, 18), min_size=1, max_size=2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    times=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=examples(60))
def test_any_budget_is_met_and_every_slot_is_a_mean(counts, kind, seed, times):
    videos.meets_any_budget(PruneVid(threshold=0.3, scenes=0.5), counts, kind, seed, times)


def test_what_has_a_place_is_merged_and_parts_without_one_are_dropped():
    tokens = video(8)
    # Two scenes with static places, and eight frames with dynamic tokens.
    slots = [PruneVid().assign(tokens, torch.tensor([k])).slot[0].view(8, 6) for k in (1, 12)]
    assert (slots[1] >= 0).all()
    # Of parts of one size the first has the only place, four static places over four frames.
    assert (slots[0] >= 0).tolist() == [[frame < 4 and place < 4 for place in range(6)] for frame in range(8)]


def test_a_scene_that_comes_back_is_another_scene():
    tokens = video(6, still=6, seed=2)
    x = tokens.features[0].view(6, 6, 8)
    # a a b b a a: two clusters, and three scenes of six static places each.
    x[4:] = x[:2]
    x[2:4] = x[3]
    strategy = PruneVid(scenes=0.34, neighbours=1)
    kept = select(strategy, tokens, Keep.of(18)).mask[0].nonzero().flatten().tolist()
    assert kept == [*range(6), *range(12, 18), *range(24, 30)]
    found = strategy.assign(tokens, torch.tensor([18])).apply(tokens.features.double())[0]
    torch.testing.assert_close(found, torch.cat([x[i : i + 2].double().mean(dim=0) for i in (0, 2, 4)]))


def test_hard_batches_and_settings():
    for example in PruneVid.examples:
        hard.check(PruneVid(**example))
    assert PruneVid().needs == {Evidence.FEATURES, Evidence.GRID}
    for bad in ({"threshold": 1.5}, {"scenes": 0.0}, {"scenes": 1.5}, {"neighbours": 0}):
        with pytest.raises(SettingError):
            PruneVid(**bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="prunevid: the features hold NaN"):
        select(PruneVid(), tokens, Keep.of(2))
