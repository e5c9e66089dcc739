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
from tokensieve_strategies import HoliTom
from tokensieve_strategies._maths.segments import still_segments


def saved(alike, start, stop):
    """How many tokens the frames from `start` to `stop` save as one run."""
    pairs = alike[start : stop - 1]
    still = sum(all(pair[place] for pair in pairs) for place in range(len(pairs[0]))) if pairs else 0
    return still * (stop - start - 1)


@given(frames=st.integers(1, 7), places=st.integers(1, 4), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=examples(150))
def test_runs_save_the_most_of_all_ways_to_cut(frames, places, seed):
    alike = torch.rand(frames - 1, places, generator=torch.Generator().manual_seed(seed)) < 0.6
    runs = still_segments(alike)
    assert [run.start for run in runs] == [0, *[run.stop for run in runs[:-1]]]
    assert runs[-1].stop == frames
    rows = alike.tolist()
    total = sum(saved(rows, run.start, run.stop) for run in runs)
    ways = itertools.product([False, True], repeat=frames - 1)
    cuts = [[0, *[i + 1 for i, cut in enumerate(way) if cut], frames] for way in ways]
    assert total == max(sum(saved(rows, *run) for run in itertools.pairwise(cut)) for cut in cuts)
    # A run that saves nothing is one frame.
    assert all(saved(rows, run.start, run.stop) > 0 for run in runs if run.stop - run.start > 1)


def peaks(x, number, near):
    """Centres by density peaks, and the nearest centre of each, distance by distance."""
    n = len(x)
    squared = [[math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / len(p) for q in x] for p in x]
    near = min(near, number, n)
    density = [float(np.float32(math.exp(-sum(sorted(own)[:near]) / near))) for own in squared]
    far = max(map(max, squared))
    score = []
    for i in range(n):
        denser = [j for j in range(n) if (density[j], -j) > (density[i], -i)]
        reach = min((squared[i][j] for j in denser), default=far)
        score.append(float(np.float32(math.sqrt(reach) * density[i])))
    centres = sorted(sorted(range(n), key=lambda i: (-score[i], i))[:number])
    home = [i if i in centres else min(centres, key=lambda c: (round(squared[i][c], 9), c)) for i in range(n)]
    return centres, home


def holitom(x, grid, attention, k, runs_of, threshold=0.8, contextual=0.0, balance=0.6, neighbours=7):
    """Each kept token's vector; `runs_of` cuts a table of what is alike into runs."""
    mean = [float(np.float32(sum(heads) / len(heads))) for heads in attention]
    parts = []
    for picture in sorted({tuple(g[:2]) for g in grid}):
        at = {(g[2], g[3], g[4]): i for i, g in enumerate(grid) if tuple(g[:2]) == picture}
        frames, cells = sorted({key[0] for key in at}), sorted({key[1:] for key in at})
        alike = [
            [(a, *c) in at and (b, *c) in at and loops.cosine(x[at[a, *c]], x[at[b, *c]]) > threshold for c in cells]
            for a, b in itertools.pairwise(frames)
        ]
        for start, stop in runs_of(alike, len(frames), len(cells)):
            still = [p for p in range(len(cells)) if stop - start > 1 and all(r[p] for r in alike[start : stop - 1])]
            if still:
                parts.append(("still", [[at[f, *cells[p]] for f in frames[start:stop]] for p in still]))
            for frame in frames[start:stop]:
                moves = [p for p in range(len(cells)) if p not in still and (frame, *cells[p]) in at]
                if moves:
                    parts.append(("moving", [[at[frame, *cells[p]]] for p in moves]))
    claims = sorted(
        (-Fraction(len(units), 2 * seat + 1), number)
        for number, (_, units) in enumerate(parts)
        for seat in range(len(units))
    )
    vector = {}
    for number, (kind, units) in enumerate(parts):
        places = sum(one == number for _, one in claims[:k])
        if not places:
            continue
        means = [np.mean([x[i] for i in unit], axis=0) for unit in units]
        left = list(range(len(units)))
        if kind == "moving":
            order = sorted(left, key=lambda u: (-mean[units[u][0]], u))
            dominant = order[: round((1 - Fraction(contextual)) * places)]
            vector |= {units[u][0]: means[u] for u in dominant}
            left, places = [u for u in left if u not in dominant], places - len(dominant)
        if places:
            centres, home = peaks([means[u] for u in left], places, neighbours)
            for c in centres:
                joined = [means[left[u]] for u in range(len(left)) if home[u] == c and u != c]
                own = means[left[c]]
                vector[units[left[c]][0]] = balance * own + (1 - balance) * np.mean(joined, axis=0) if joined else own
    return vector


def runs_of(alike, frames, places):
    table = torch.tensor(alike, dtype=torch.bool).reshape(frames - 1, places)
    return [(run.start, run.stop) for run in still_segments(table)]


video = partial(videos.two_scenes, still=4, drift=0.02)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("given_settings", "budgets"),
    [
        ({}, (1, 3, 7, 12)),
        ({"contextual": 0.5, "balance": 0.3, "neighbours": 2}, (1, 3, 7, 12)),
        ({"contextual": 1.0}, (1, 3, 7, 12)),
        # All is still, so there are six places.
        ({"threshold": -1.0}, (1, 3, 6)),
    ],
)
def test_it_is_the_formula(seed, given_settings, budgets):
    tokens = video(6, seed=seed)
    x, grid = tokens.features[0].double().tolist(), tokens.grid[0].tolist()
    for k in budgets:
        expected = holitom(x, grid, tokens.vision_attention[0].tolist(), k, runs_of, **given_settings)
        strategy = HoliTom(**given_settings)
        mask = select(strategy, tokens, Keep.of(k)).mask
        assert mask[0].nonzero().flatten().tolist() == sorted(expected)
        reduction = strategy.assign(tokens, torch.tensor([k]))
        found = reduction.apply(tokens.features.double())[0]
        for slot, place in enumerate(sorted(expected)):
            assert found[slot].tolist() == pytest.approx(list(expected[place]), abs=1e-6)


@given(
    counts=st.lists(st.integers(0, 18), min_size=1, max_size=2),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    contextual=st.sampled_from([0.0, 0.5, 1.0]),
    times=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=examples(60))
def test_any_budget_is_met_and_every_slot_is_a_mean(counts, kind, seed, contextual, times):
    videos.meets_any_budget(HoliTom(contextual=contextual, threshold=0.3), counts, kind, seed, times)


def test_what_is_still_takes_one_place_and_what_jumps_begins_anew():
    tokens = video(8, still=6, seed=1)
    kept = select(HoliTom(), tokens, Keep.of(12)).mask[0].nonzero().flatten().tolist()
    # Two runs of four frames, of which all is still.
    assert kept == [*range(6), *range(24, 30)]
    reduction = HoliTom().assign(tokens, torch.tensor([12]))
    x = tokens.features[0].double().view(8, 6, 8)
    found = reduction.apply(tokens.features.double())[0]
    torch.testing.assert_close(found, torch.cat([x[:4].mean(dim=0), x[4:].mean(dim=0)]))
    # With one place more a later still token stands for itself.
    assert select(HoliTom(), tokens, Keep.of(13)).mask[0].nonzero().flatten().tolist() == [*range(7), *range(24, 30)]


def test_without_centres_what_moves_is_dropped():
    tokens = video(4, still=0, seed=2)
    reduction = HoliTom(contextual=0.0).assign(tokens, torch.tensor([8]))
    assert (reduction.slot >= 0).sum() == 8
    reduction = HoliTom(contextual=0.5).assign(tokens, torch.tensor([8]))
    assert (reduction.slot >= 0).all()


def test_hard_batches_and_settings():
    for example in (*HoliTom.examples, {"contextual": 0.5}):
        hard.check(HoliTom(**example))
    assert HoliTom().needs == {Evidence.FEATURES, Evidence.GRID, Evidence.VISION_ATTENTION}
    for bad in ({"threshold": 1.5}, {"contextual": -0.1}, {"balance": 0.0}, {"neighbours": 0}):
        with pytest.raises(SettingError):
            HoliTom(**bad)
    tokens = sample([4])
    tokens.features[0, 1, 0] = torch.nan
    with pytest.raises(ScoreError, match="holitom: the features hold NaN"):
        select(HoliTom(), tokens, Keep.of(2))
