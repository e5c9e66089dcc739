"""What the Triton kernels pick; `test_kernels.py` runs this in a process in which triton interprets them.

Not collected by itself: whether triton interprets is decided once for a process.
"""

import os
from dataclasses import replace

import pytest
import torch
from effort import NIGHTLY, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import cosine
from loops import greedy_map as greedy_map_loop
from loops import max_min as max_min_loop
from samples import KINDS, sample, vectors

from tokensieve import Evidence, Keep, Tokens, Universe, select
from tokensieve_strategies import CDPP, GSP, QCSP, DivPrune
from tokensieve_strategies._maths import dpp, kernels, maxmin
from tokensieve_strategies._maths.dpp_float32 import Quick

DEVICE = os.environ["TOKENSIEVE_TEST_DEVICE"]
NEAR = 1e-5


@pytest.fixture(autouse=True)
def all_groups_begin_in_float32(monkeypatch):
    monkeypatch.setattr(dpp, "in_float32", lambda *_: True)
    monkeypatch.setattr(maxmin, "in_float32", lambda *_: True)


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that ran."""
    ran = []
    for name in ("greedy_map", "max_min"):
        launch = getattr(kernels, name)

        def counted(*args, name=name, launch=launch):
            ran.append(name)
            launch(*args)

        monkeypatch.setattr(kernels, name, counted)
    return ran


def group(sizes, n, d, kind="normal", seed=0):
    """Features, qualities that are equal where features are, and places with a token; other places hold anything."""
    g = torch.Generator().manual_seed(seed)
    features = vectors(kind, (len(sizes), n, d), g)
    quality = 0.1 + features.sum(dim=2).sin().abs()
    valid = torch.arange(n) < torch.tensor(sizes).unsqueeze(1)
    features = torch.where(valid.unsqueeze(2), features, torch.randn(features.shape, generator=g) * 7)
    quality = torch.where(valid, quality, 100.0)
    return features.to(DEVICE), quality.to(DEVICE), valid.to(DEVICE)


def on_device(tokens):
    universe = Universe.of_counts(list(tokens.universe.sizes), DEVICE)
    query = tokens.query
    query = replace(query, patch=query.patch.to(DEVICE), text=query.text.to(DEVICE), mask=query.mask.to(DEVICE))
    return Tokens(universe, {Evidence.FEATURES: tokens.features.to(DEVICE), Evidence.QUERY: query})


def greedy(features, quality, valid, *depths):
    picking = dpp.GreedyMap(features, quality, valid)
    for depth in depths:
        picks = picking.to(depth)
    return picks


def apart(features, valid, *depths):
    picking = maxmin.CosineMaxMin(features, valid, full=False)
    for depth in depths:
        places, _ = picking.to(depth)
    return places.tolist()


def by_torch(of, *args):
    """What the torch version finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENSIEVE_TRITON", "0")
        return of(*args)


SHAPES = [
    # sizes, n, d, depth
    ([1], 1, 4, 1),
    ([2], 2, 4, 2),
    ([33], 33, 12, 9),
    ([31, 20], 31, 12, 10),
    ([40, 3, 0, 39, 17], 40, 16, 7),
]


@pytest.mark.parametrize(("sizes", "n", "d", "depth"), SHAPES)
def test_greedy_map_is_that_of_a_loop_and_of_torch(sizes, n, d, depth, launches):
    of = group(sizes, n, d)
    picks = greedy(*of, depth)
    assert launches == ["greedy_map"]
    assert picks.places.tolist() == by_torch(greedy, *of, depth).places.tolist()
    assert len(launches) == 1
    for row, size in enumerate(sizes):
        x, quality = of[0][row, :size].tolist(), of[1][row, :size].tolist()
        places, gains, rank = greedy_map_loop(x, quality, depth)
        assert picks.places[row].tolist() == places + [-1] * (depth - len(places))
        assert picks.rank[row] == rank
        assert picks.gains[row, :rank].tolist() == pytest.approx(gains, rel=NEAR)


@pytest.mark.parametrize(("sizes", "n", "d", "depth"), SHAPES)
def test_max_min_is_that_of_a_loop_and_of_torch(sizes, n, d, depth, launches):
    features, _, valid = group(sizes, n, d)
    places = apart(features, valid, depth)
    assert launches == ["max_min"]
    assert places == by_torch(apart, features, valid, depth)
    assert len(launches) == 1
    for row, size in enumerate(sizes):
        x = features[row, :size].tolist()
        picks = max_min_loop([[1 - cosine(a, b) for b in x] for a in x], depth)
        assert places[row] == picks + [-1] * (depth - len(picks))


def test_equal_tokens_go_by_their_place_however_wide_the_group():
    n = 70
    features, quality = torch.ones(2, n, 8, device=DEVICE), torch.ones(2, n, device=DEVICE)
    # Orthogonal tokens are ties at every step.
    features[1] = torch.eye(n, device=DEVICE)[:, :8]
    valid = torch.ones(2, n, dtype=torch.bool, device=DEVICE)
    assert Quick(features, quality, valid, full=True).to(5, valid.any(dim=1))[0][1] == [0, 1, 2, 3, 4]
    assert greedy(features, quality, valid, 7).places.tolist() == [list(range(7))] * 2
    assert apart(features, valid, 7)[0] == list(range(7))


def test_the_kernels_go_on_where_they_stopped(launches):
    of = group([50, 41], 50, 24, seed=2)
    assert greedy(*of, 1, 2, 6, 6, 9).places.tolist() == greedy(*of, 9).places.tolist()
    assert launches == ["greedy_map"] * 5
    assert apart(of[0], of[2], 1, 2, 6, 6, 9) == apart(of[0], of[2], 9)
    assert launches == ["greedy_map"] * 5 + ["max_min"] * 5


def test_a_row_is_treated_in_a_batch_as_it_is_alone():
    similar = torch.randn(3, 45, 45, generator=torch.Generator().manual_seed(3)).mul(0.1)
    similar = (similar + similar.mT + torch.eye(45)).to(DEVICE)

    def run(rows):
        some = similar[rows]
        count = len(some)
        gain = some.diagonal(dim1=1, dim2=2).clone()
        places = torch.zeros(6, count, dtype=torch.int64, device=DEVICE)
        pivots = gain.new_zeros(6, count, 1)
        rest = gain.new_zeros(count, 32, 45)
        kernels.greedy_map(some.reshape(-1, 45), gain, rest, places, pivots, range(6), 1.0)
        closest, nearest, far = torch.zeros_like(gain), places.clone(), pivots.clone()
        kernels.max_min(some.reshape(-1, 45), closest, nearest, far, range(6), 0.0)
        return [gain, places.T, pivots.squeeze(2).T, rest, closest, nearest.T, far.squeeze(2).T]

    whole = run(slice(None))
    for row in range(3):
        for one, all_rows in zip(run(slice(row, row + 1)), whole, strict=True):
            assert torch.equal(one[0], all_rows[row])


def nearest_of(closest, turns=1, close=2.0**-20, similar=None):
    """What the kernel picks from one row of largest cosines: places, their cosines, and the row afterwards."""
    n = len(closest)
    similar = torch.eye(n, device=DEVICE) if similar is None else similar.to(DEVICE)
    row = torch.tensor([closest], device=DEVICE)
    places = torch.full((turns, 1), -7, device=DEVICE)
    pivots = row.new_zeros(turns, 1, 1)
    kernels.max_min(similar, row, places, pivots, range(turns), close)
    return places.flatten().tolist(), pivots.flatten().tolist(), row[0].tolist()


def largest_of(gain, near=1 - 2.0**-17):
    """The place that the kernel picks from one row of gains."""
    n = len(gain)
    places = torch.full((1, 1), -7, device=DEVICE)
    row = torch.tensor([gain], device=DEVICE)
    rest, pivots = row.new_zeros(1, 1, n), row.new_zeros(1, 1, 1)
    kernels.greedy_map(torch.eye(n, device=DEVICE), row, rest, places, pivots, range(1), near)
    return places.item()


def test_numbers_that_float32_cannot_tell_apart_are_ties():
    assert nearest_of([0.5, 0.1 + 5e-7, 0.3, 0.1])[0] == [1]
    assert nearest_of([0.5, 0.1 + 2e-6, 0.3, 0.1])[0] == [3]
    assert largest_of([0.5, 0.9 * (1 - 4e-6), 0.3, 0.9]) == 1
    assert largest_of([0.5, 0.9 * (1 - 2e-5), 0.3, 0.9]) == 3


def test_where_nothing_is_a_number_the_place_is_inside_of_the_row():
    assert nearest_of([torch.nan] * 5)[0][0] in range(5)
    assert largest_of([torch.nan] * 5) in range(5)


def test_max_min_keeps_the_largest_cosine_to_a_pick():
    similar = torch.rand(21, 21, generator=torch.Generator().manual_seed(5))
    similar = (similar + similar.T).fill_diagonal_(2).div(2)
    # The last two places hold no token.
    start = [*torch.rand(21, generator=torch.Generator().manual_seed(6)).tolist()[:19], 3.0, 3.0]
    places, cosines, closest = nearest_of(start, 8, similar=similar)
    known = [start.index(min(start))]
    found = [min(start)]
    while len(known) < 8:
        reach = [max(float(similar[i, p]) for p in known) for i in range(19)]
        found.append(min(reach))
        known.append(reach.index(found[-1]))
    assert places == known
    assert cosines == pytest.approx(found, rel=1e-6)
    assert closest == pytest.approx([max(float(similar[i, p]) for p in known) for i in range(19)] + [3.0, 3.0])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_found_is_not_a_number(kind):
    """Also past the last token and past the rank, where what is found is not used."""
    features, quality, valid = group([10, 3], 10, 6, kind)
    quick = Quick(features, quality, valid, full=False)
    picks, *_ = quick.to(10, valid.any(dim=1))
    assert [len(row) for row in picks] == [10, 3]
    assert all(0 <= place < 10 for row in picks for place in row)
    for found in (quick._gain, quick._pivots, quick._rest):
        assert torch.isfinite(found).all()
    assert set(quick._places.unique().tolist()) <= set(range(10))


def test_vectors_that_are_no_numbers_lead_nowhere_else():
    features, quality, valid = group([18], 18, 6)
    features[0, 4] = torch.nan
    quick = Quick(features, quality, valid, full=True)
    _, right, _ = quick.to(9, valid.any(dim=1))
    assert right == [0]
    far = maxmin._Quick(features, valid, full=True)
    assert far.to(9)[1] == [0]
    for places in (quick._places, far._places):
        assert ((places >= 0) & (places < 18)).all()


@pytest.mark.parametrize(
    ("strategy", "keep", "ran"),
    [
        (DivPrune(), 24, {"max_min"}),
        (QCSP(), 12, {"greedy_map"}),
        (CDPP(theta=0.5), 12, {"greedy_map"}),
        (GSP() & QCSP(), 4, {"greedy_map"}),
        (DivPrune() & QCSP(), 3, {"max_min", "greedy_map"}),
    ],
    ids=repr,
)
def test_a_selection_is_that_of_torch(strategy, keep, ran, launches):
    tokens = on_device(sample([60, 41], d=16))
    kept = select(strategy, tokens, Keep.of(keep)).mask.tolist()
    assert set(launches) == ran
    assert len(launches) <= 4 * len(ran)
    launches.clear()
    assert kept == by_torch(select, strategy, tokens, Keep.of(keep)).mask.tolist()
    assert not launches


@st.composite
def groups(draw):
    """A group with rows of different lengths, and how many picks."""
    sizes = draw(st.lists(st.integers(1, 45), min_size=1, max_size=5))
    n = max(sizes)
    of = group(sizes, n, draw(st.integers(2, 20)), draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**31)))
    return sizes, of, draw(st.integers(1, min(n, 12 if NIGHTLY else 6)))


def no_copy_before(picks, x, quality):
    """Whether every pick is the first of the tokens that are equal to it and not picked before."""
    for turn, pick in enumerate(picks):
        for other in range(pick):
            if other not in picks[:turn] and torch.equal(x[other], x[pick]) and quality[other] == quality[pick]:
                return False
    return True


@settings(max_examples=examples(100 if NIGHTLY else 40))
@given(drawn=groups())
def test_every_pick_of_greedy_map_is_the_best_one(drawn):
    sizes, (features, quality, valid), depth = drawn
    picks = greedy(features, quality, valid, depth)
    for row, size in enumerate(sizes):
        places = [place for place in picks.places[row].tolist() if place >= 0]
        assert len(set(places)) == len(places) == min(size, depth)
        assert max(places) < size
        x, q = features[row, :size].double().cpu(), quality[row, :size].double().cpu()
        assert no_copy_before(places, x, q)
        unit = torch.nn.functional.normalize(x, dim=1)
        kernel = q.unsqueeze(1) * (unit @ unit.T) * q
        gain, left = kernel.diagonal().clone(), torch.ones(size, dtype=torch.bool)
        for turn in range(int(picks.rank[row])):
            pick = places[turn]
            assert gain[pick] >= gain[left].max() * (1 - NEAR) - 1e-11
            known = places[: turn + 1]
            inner, across = kernel[known][:, known], kernel[:, known]
            gain = kernel.diagonal() - (across * torch.linalg.lstsq(inner, across.T, driver="gelsd").solution.T).sum(1)
            left[pick] = False


@settings(max_examples=examples(100 if NIGHTLY else 40))
@given(drawn=groups())
def test_every_pick_of_max_min_is_the_farthest(drawn):
    sizes, (features, _, valid), depth = drawn
    for row, places in enumerate(apart(features, valid, depth)):
        size = sizes[row]
        picks = places[: min(size, depth)]
        assert len(set(picks)) == len(picks)
        assert all(0 <= place < size for place in picks)
        assert set(places[size:]) <= {-1}
        x = features[row, :size].double().cpu()
        assert no_copy_before(picks, x, [0] * size)
        unit = torch.nn.functional.normalize(x, dim=1)
        distance = 1 - unit @ unit.T
        others = distance.clone().fill_diagonal_(torch.inf).amin(dim=1)
        assert others[picks[0]] >= others.max() - NEAR or size == 1
        for turn in range(1, len(picks)):
            reach = distance[:, picks[:turn]].amin(dim=1)
            reach[picks[:turn]] = -torch.inf
            assert reach[picks[turn]] >= reach.max() - NEAR
